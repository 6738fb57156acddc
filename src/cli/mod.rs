//! The command-line tool, `vmlockctl`.
//!
//! 1. [`arguments`] defines and parses the command line. Each command has a file with its options
//!    and a function `perform`: in [`commands`], or with the files that only it needs in [`run`],
//!    [`list`], [`monitor`], [`metrics`], [`doctor`] and [`completion`].
//! 2. [`target`] parses arguments that name disks, locks and owners, and finds the objects.
//!    [`acquire`] opens an owner and locks disks, with a wait if requested.
//! 3. [`connection`] calls the service. [`process`] inspects processes, such as that of the
//!    service, without the service.
//! 4. [`terminal`] prints results and messages and catches signals. [`mod@format`] formats replies
//!    as text or JSON, and [`error`] has messages and exit codes.
//!
//! A room uses those that follow it in this list, and none before it; this keeps the imports free
//! of circles.
//!
//! Text output is for people and may change. The output of `--json` has the values of the D-Bus
//! API, with keys in kebab-case.

mod acquire;
mod arguments;
mod commands;
mod completion;
mod connection;
mod doctor;
mod error;
mod format;
mod list;
mod metrics;
mod monitor;
mod process;
mod run;
mod target;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;
use std::thread::JoinHandle;

use clap::CommandFactory as _;

use crate::client::Bus;
use crate::rlimit::{self, Requirements};
use arguments::{Arguments, Command};
use commands::{
    lock, lockspace, reexec, release, reload, resolve, resume, show, status, suspend, unlock, who,
};
use connection::{ServiceConnection, runtime};
use error::Error;
use error::exit::Exit;
use list::{owners, waiting};
use terminal::output::{OutputFormat, print_message};
use terminal::{output, polkit_agent, signals};

/// The resources that the tool needs, without the disks that it opens.
const REQUIREMENTS: Requirements = Requirements { descriptors: 20, memory: 32 << 20, stack: 0 };

/// Runs the tool with these arguments; the first one is its own name.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let started = runtime::spawn_thread(move || run_tool(&arguments));
    match started.map(JoinHandle::join) {
        Ok(Ok(exit)) => {
            if let Exit::Signal(signal) = exit {
                signals::terminate_by(signal);
            }
            exit.into()
        }
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => {
            print_message(&rlimit::Error::Thread(error).to_string());
            Exit::FAILURE.into()
        }
    }
}

/// Runs one of the internal processes of the tool, or a command.
fn run_tool(arguments: &[OsString]) -> Exit {
    let internal = run::start::main(arguments)
        .or_else(|| polkit_agent::main(arguments))
        .or_else(|| completion::candidates::main(arguments, Arguments::command));
    if let Some(exit) = internal {
        return exit;
    }
    let (bus, arguments) = match arguments::parse_or_help(arguments) {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() => {
            // A failure to write to standard error cannot be reported anywhere.
            let _ = error.print();
            return Exit::USAGE;
        }
        // The text of --help or --version.
        Err(error) => {
            let printed = output::flush_after(error.print());
            return printed.map_or_else(|error| report(&error, Bus::System), |()| Exit::SUCCESS);
        }
    };
    run_command(bus, arguments).unwrap_or_else(|error| report(&error, bus))
}

/// Prints the message of an error. Returns its exit code.
fn report(error: &Error, bus: Bus) -> Exit {
    if let Some(message) = error.message(bus) {
        print_message(&message);
    }
    error.exit()
}

/// Runs a command.
fn run_command(bus: Bus, arguments: Arguments) -> Result<Exit, Error> {
    if arguments.no_ask_password {
        polkit_agent::disable_prompt();
    }
    let format = if arguments.json { OutputFormat::Json } else { OutputFormat::Text };
    if arguments.quiet {
        output::set_quiet();
    }
    let requirements = Requirements {
        descriptors: REQUIREMENTS.descriptors + arguments.command.disks(),
        ..REQUIREMENTS
    };
    rlimit::check(requirements).map_err(|error| Error::Failed(error.to_string()))?;
    let event_loop = runtime::event_loop();
    let event_loop = event_loop.map_err(|error| Error::system("start the event loop", error))?;
    event_loop.block_on(async {
        // Standard output may be a file.
        let _file_size = signals::catch_file_size()?;
        let command = match arguments.command {
            // These commands report more than a missing connection.
            Command::Reexec(arguments) => return reexec::perform(bus, arguments, format).await,
            Command::Status(_) => return status::perform(bus, format).await,
            Command::Doctor(arguments) => return doctor::perform(bus, arguments, format).await,
            Command::Completions(arguments) => return completion::perform(&arguments),
            command => command,
        };
        let service = match &command {
            command if command.survives_service_restart() => {
                ServiceConnection::connect_via_bus(bus).await?
            }
            _ => ServiceConnection::connect(bus).await?,
        };
        let service =
            if command.needs_running_service() { service.without_activation() } else { service };
        match command {
            Command::Run(arguments) => run::perform(&service, arguments).await,
            Command::Lock(arguments) => lock::perform(&service, arguments, format).await,
            Command::Unlock(arguments) => unlock::perform(&service, arguments).await,
            Command::List(arguments) => list::perform(&service, arguments, format).await,
            Command::Owners(arguments) => owners::perform(&service, arguments, format).await,
            Command::Waiting(arguments) => waiting::perform(&service, arguments, format).await,
            Command::Show(arguments) => show::perform(&service, arguments, format).await,
            Command::Who(arguments) => who::perform(&service, arguments, format).await,
            Command::Resolve(arguments) => resolve::perform(&service, arguments, format).await,
            Command::Lockspace(arguments) => lockspace::perform(&service, arguments, format).await,
            Command::Release(arguments) => release::perform(&service, arguments).await,
            Command::Suspend(arguments) => suspend::perform(&service, arguments, format).await,
            Command::Resume(arguments) => resume::perform(&service, arguments, format).await,
            Command::Reload(_) => reload::perform(&service).await,
            Command::Monitor => monitor::perform(&service, format).await,
            Command::Metrics(arguments) => metrics::perform(&service, arguments, format).await,
            // Handled above.
            Command::Completions(_)
            | Command::Reexec(_)
            | Command::Doctor(_)
            | Command::Status(_)
            | Command::Help(_) => Ok(Exit::SUCCESS),
        }
    })
}

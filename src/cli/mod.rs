//! The command-line tool, `vmlockctl`.
//!
//! One file per command. Shared by them: [`link`] connects to the service, [`disks`] reads `PATH:MODE`,
//! [`target`] reads arguments that name a disk, a lock or an owner, [`find`] finds what they name,
//! [`hints`] answers common mistakes, and [`row`], [`clock`], [`table`] and [`json`] format replies.
//! [`error`] has the messages and exit codes of failures.
//!
//! Text is for people and may change; `--json` has the values of the bus, under keys in kebab-case.

mod acquire;
mod commands;
mod completion;
mod connection;
mod doctor;
mod error;
mod format;
mod help;
mod list;
mod metrics;
mod monitor;
mod run;
mod service_process;
mod target;
mod terminal;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::process::ExitCode;
use std::thread;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::client::Bus;
use crate::rlimit::{self, Needs};
use commands::{
    lock, lockspace, reexec, release, reload, resolve, resume, show, status, suspend, unlock, who,
};
use connection::Link;
use error::Error;
use error::exit_code::Code;
use list::{owners, waiting};
use target::disk::FILES_MAX;
use target::hints;
use terminal::output::{Form, complain};
use terminal::{output, polkit_agent, signals};

const ABOUT: &str = "Lock the disks of virtual machines, and show who holds them";

const LONG_ABOUT: &str = "\
Locks the disks of virtual machines through the service vmlockd, and shows their holders.

A program that writes a disk image should lock it exclusively: two writers corrupt it. 'vmlockctl \
run' keeps disks locked while a command runs; 'vmlockctl who' shows the holders of a disk.";

const AFTER_HELP: &str = "\
Examples:
  vmlockctl run --disk web1.qcow2 -- \\
      qemu-system-x86_64 -drive file=web1.qcow2
  vmlockctl who web1.qcow2
  vmlockctl list

Exit codes:
   0  done
   1  any other failure; for 'doctor': a disk is in danger
   3  for 'who': the disk is free
  64  the command line is wrong
  66  there is no such disk, lease, lockspace, owner or lock
  69  the service does not run or cannot be reached, or the
      bus cannot be reached
  75  the disk is locked by another owner, or '--wait'
      timed out
  77  not authorized
  78  for 'doctor': no disk is in danger, but there are
      warnings

'run' ends as its command does, with its exit code or by the same signal; with \
126 if the command cannot be executed, and with 127 if there is no such command.

Root calls the host's service, on the system bus; other users call their own \
service, on the session bus. --system and --session override this.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "vmlockctl",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_long_help = AFTER_HELP,
    disable_help_subcommand = true
)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
struct Arguments {
    /// Call the host's service, on the system bus (default for root)
    #[arg(long, global = true, display_order = 900)]
    system: bool,
    /// Call your own service, on the session bus (default for other users)
    #[arg(long, global = true, display_order = 901)]
    session: bool,
    /// Print JSON instead of text
    #[arg(long, global = true, display_order = 902)]
    json: bool,
    /// Do not ask for a password
    #[arg(long, global = true, display_order = 903)]
    no_ask_password: bool,
    /// Do not print what a command has done, what it waits for, and that a list is empty
    #[arg(short, long, global = true, display_order = 904)]
    quiet: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Arguments),
    Lock(lock::Arguments),
    Unlock(unlock::Arguments),
    List(list::Arguments),
    Owners(owners::Arguments),
    Waiting(waiting::Arguments),
    Show(show::Arguments),
    Who(who::Arguments),
    Resolve(resolve::Arguments),
    Lockspace(lockspace::Arguments),
    Release(release::Arguments),
    Suspend(suspend::Arguments),
    Resume(resume::Arguments),
    Reload(reload::Arguments),
    Reexec(reexec::Arguments),
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    /// Print events of owners and locks until Ctrl-C
    Monitor,
    Metrics(metrics::Arguments),
    Completions(completion::Arguments),
    Help(help::Arguments),
}

impl Verb {
    /// How many disks it may have to open.
    fn disks(&self) -> usize {
        match self {
            Self::Run(arguments) => arguments.disks().min(FILES_MAX),
            Self::Lock(arguments) => arguments.disks().min(FILES_MAX),
            _ => 1,
        }
    }

    /// Whether it is for a running service only, since it reads or changes the state of that one. A stopped
    /// service is not started.
    fn needs_running_service(&self) -> bool {
        match self {
            Self::List(_)
            | Self::Owners(_)
            | Self::Waiting(_)
            | Self::Show(_)
            | Self::Who(_)
            | Self::Resolve(_)
            | Self::Reload(_)
            | Self::Monitor
            | Self::Metrics(_) => true,
            Self::Lockspace(arguments) => arguments.reads(),
            _ => false,
        }
    }

    /// Whether it goes on, with the same connection, when the service ends and is started again.
    fn outlives_the_service(&self) -> bool {
        match self {
            Self::Run(arguments) => arguments.waits(),
            Self::Lock(arguments) => arguments.waits(),
            Self::Resume(arguments) => arguments.waits(),
            Self::List(arguments) => arguments.watches(),
            Self::Owners(arguments) => arguments.watches(),
            Self::Waiting(arguments) => arguments.watches(),
            Self::Monitor => true,
            _ => false,
        }
    }
}

/// What the tool needs beside the disks that it opens.
const NEEDS: Needs = Needs { descriptors: 20, memory: 32 << 20, stack: 0 };
/// The stack of the thread that does everything: the main thread's may be limited to less.
const STACK: usize = 4 << 20;

/// Runs the tool with these arguments, the first of which is its own name.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let started = thread::Builder::new().stack_size(STACK).spawn(move || run_tool(&arguments));
    match started.map(thread::JoinHandle::join) {
        Ok(Ok(code)) => {
            if let Code::Signal(signal) = code {
                signals::die_by(signal);
            }
            code.into()
        }
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => {
            complain(&rlimit::Error::Thread(error).to_string());
            Code::FAILURE.into()
        }
    }
}

fn run_tool(arguments: &[OsString]) -> Code {
    let other = run::start::main(arguments)
        .or_else(|| polkit_agent::main(arguments))
        .or_else(|| completion::candidates::main(arguments, Arguments::command));
    if let Some(code) = other {
        return code;
    }
    let (bus, arguments) = match parse(arguments).and_then(help::or_arguments) {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() => {
            // There is nowhere to report that standard error cannot be written.
            let _ = error.print();
            return Code::USAGE;
        }
        // The help or the version.
        Err(error) => {
            let printed = output::written(error.print());
            return printed.map_or_else(|error| report(&error, Bus::System), |()| Code::SUCCESS);
        }
    };
    perform(bus, arguments).unwrap_or_else(|error| report(&error, bus))
}

/// Prints an error. Returns its exit code.
fn report(error: &Error, bus: Bus) -> Code {
    if let Some(message) = error.message(bus) {
        complain(&message);
    }
    error.code()
}

fn parse(words: &[OsString]) -> Result<(Bus, Arguments), clap::Error> {
    let usage = |hint: String| usage_error(words, ErrorKind::ValueValidation, &hint);
    hints::check_wait(words).map_err(usage)?;
    let arguments = Arguments::try_parse_from(words)
        .map_err(|error| hints::for_error(&error, words).map_or(error, usage))?;
    let bus = match (arguments.system, arguments.session) {
        (true, false) => Bus::System,
        (false, true) => Bus::Session,
        (false, false) => Bus::of(nix::unistd::geteuid().as_raw()),
        // clap itself would not see this where one is before the verb and one behind it.
        (true, true) => {
            let message = "--system and --session exclude each other; give one of them";
            return Err(usage_error(words, ErrorKind::ArgumentConflict, message));
        }
    };
    Ok((bus, arguments))
}

/// A mistake in a command line, with the usage of its subcommand.
fn usage_error(words: &[OsString], kind: ErrorKind, message: &str) -> clap::Error {
    let mut command = Arguments::command();
    // The usage of a subcommand has the names of those above it only then.
    command.build();
    let verb = hints::verb(words).and_then(|verb| command.find_subcommand_mut(verb));
    match verb {
        Some(verb) => verb.error(kind, message),
        None => command.error(kind, message),
    }
}

fn perform(bus: Bus, arguments: Arguments) -> Result<Code, Error> {
    if arguments.no_ask_password {
        polkit_agent::forbid();
    }
    let form = if arguments.json { Form::Json } else { Form::Text };
    if arguments.quiet {
        output::be_quiet();
    }
    let needs = Needs { descriptors: NEEDS.descriptors + arguments.verb.disks(), ..NEEDS };
    rlimit::check(needs).map_err(|error| Error::Failed(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::system("start the event loop", error))?;
    runtime.block_on(async {
        // What is printed may go to a file.
        let _file_size = signals::catch_file_size()?;
        let verb = match arguments.verb {
            // What these say where there is no bus is more than that.
            Verb::Reexec(arguments) => return reexec::perform(bus, arguments, form).await,
            Verb::Status(_) => return status::perform(bus, form).await,
            Verb::Doctor(arguments) => return doctor::perform(bus, arguments, form).await,
            Verb::Completions(arguments) => return completion::perform(&arguments),
            verb => verb,
        };
        let link = match &verb {
            verb if verb.outlives_the_service() => Link::open(bus).await?,
            _ => Link::open_private(bus).await?,
        };
        let link = if verb.needs_running_service() { link.into_running() } else { link };
        match verb {
            Verb::Run(arguments) => run::perform(&link, arguments).await,
            Verb::Lock(arguments) => lock::perform(&link, arguments, form).await,
            Verb::Unlock(arguments) => unlock::perform(&link, arguments).await,
            Verb::List(arguments) => list::perform(&link, arguments, form).await,
            Verb::Owners(arguments) => owners::perform(&link, arguments, form).await,
            Verb::Waiting(arguments) => waiting::perform(&link, arguments, form).await,
            Verb::Show(arguments) => show::perform(&link, arguments, form).await,
            Verb::Who(arguments) => who::perform(&link, arguments, form).await,
            Verb::Resolve(arguments) => resolve::perform(&link, arguments, form).await,
            Verb::Lockspace(arguments) => lockspace::perform(&link, arguments, form).await,
            Verb::Release(arguments) => release::perform(&link, arguments).await,
            Verb::Suspend(arguments) => suspend::perform(&link, arguments, form).await,
            Verb::Resume(arguments) => resume::perform(&link, arguments, form).await,
            Verb::Reload(_) => reload::perform(&link).await,
            Verb::Monitor => monitor::perform(&link, form).await,
            Verb::Metrics(arguments) => metrics::perform(&link, arguments, form).await,
            // Served above.
            Verb::Completions(_)
            | Verb::Reexec(_)
            | Verb::Doctor(_)
            | Verb::Status(_)
            | Verb::Help(_) => Ok(Code::SUCCESS),
        }
    })
}

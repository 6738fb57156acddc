//! The command line: its definition and its parser.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::cli::acquire::request::FILES_MAX;
use crate::cli::commands::{
    lock, lockspace, reexec, release, reload, resolve, resume, show, status, suspend, unlock, who,
};
use crate::cli::list::{self, owners, waiting};
use crate::cli::target::hints;
use crate::cli::{completion, doctor, metrics, run};
use crate::client::Bus;

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

/// The command line.
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
pub(crate) struct Arguments {
    /// Call the host's service, on the system bus (default for root)
    #[arg(long, global = true, display_order = 900)]
    pub(crate) system: bool,
    /// Call your own service, on the session bus (default for other users)
    #[arg(long, global = true, display_order = 901)]
    pub(crate) session: bool,
    /// Print JSON instead of text
    #[arg(long, global = true, display_order = 902)]
    pub(crate) json: bool,
    /// Do not ask for a password
    #[arg(long, global = true, display_order = 903)]
    pub(crate) no_ask_password: bool,
    /// Do not print what a command has done, what it waits for, and that a list is empty
    #[arg(short, long, global = true, display_order = 904)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
    Help(HelpArguments),
}

impl Command {
    /// Returns the number of disks that the command may have to open.
    pub(crate) fn disks(&self) -> usize {
        match self {
            Self::Run(arguments) => arguments.disks().min(FILES_MAX),
            Self::Lock(arguments) => arguments.disks().min(FILES_MAX),
            _ => 1,
        }
    }

    /// Whether the command needs a running service, since it reads or changes the state of that
    /// service. It does not activate a stopped one.
    pub(crate) fn needs_running_service(&self) -> bool {
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
            Self::Lockspace(arguments) => arguments.is_read_only(),
            _ => false,
        }
    }

    /// Whether the command continues, with the same connection, after a restart of the service.
    pub(crate) fn survives_service_restart(&self) -> bool {
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

/// Print help for a command
#[derive(Debug, Args)]
pub(crate) struct HelpArguments {
    /// The command; without one, help for all of them is printed
    #[arg(value_name = "COMMAND")]
    commands: Vec<OsString>,
}

/// Parses a command line, and replaces `help COMMAND` by `COMMAND --help`.
///
/// # Errors
///
/// Also returns the text of the help as an error, as clap does.
pub(crate) fn parse_or_help(words: &[OsString]) -> Result<(Bus, Arguments), clap::Error> {
    let (bus, arguments) = parse(words)?;
    match arguments.command {
        Command::Help(HelpArguments { commands }) => {
            let line = ["vmlockctl".into()].into_iter().chain(commands).chain(["--help".into()]);
            parse(&line.collect::<Vec<OsString>>())
        }
        _ => Ok((bus, arguments)),
    }
}

/// Parses a command line, and selects the bus.
pub(crate) fn parse(words: &[OsString]) -> Result<(Bus, Arguments), clap::Error> {
    let usage = |hint: String| usage_error(words, ErrorKind::ValueValidation, &hint);
    hints::check_wait(words).map_err(usage)?;
    let arguments = Arguments::try_parse_from(words)
        .map_err(|error| hints::for_clap_error(&error, words).map_or(error, usage))?;
    let bus = match (arguments.system, arguments.session) {
        (true, false) => Bus::System,
        (false, true) => Bus::Session,
        (false, false) => Bus::of(rustix::process::geteuid().as_raw()),
        // clap does not detect this if one of them precedes the subcommand.
        (true, true) => {
            let message = "--system and --session exclude each other; give one of them";
            return Err(usage_error(words, ErrorKind::ArgumentConflict, message));
        }
    };
    Ok((bus, arguments))
}

/// Returns the error for a mistake in a command line, with the usage of its subcommand.
fn usage_error(words: &[OsString], kind: ErrorKind, message: &str) -> clap::Error {
    let mut command = Arguments::command();
    // Without this, the usage would lack the names of the parent commands.
    command.build();
    let subcommand = hints::subcommand(words).and_then(|name| command.find_subcommand_mut(name));
    match subcommand {
        Some(subcommand) => subcommand.error(kind, message),
        None => command.error(kind, message),
    }
}

#[cfg(test)]
mod tests;

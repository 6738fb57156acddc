//! `run`: runs a command with disks locked.
//!
//! 1. Opens an owner and locks the disks: all of them or none, after a wait if requested.
//! 2. Starts the command and binds it to the owner ([`start`]). The command inherits the lifeline.
//! 3. Forwards signals to the command and waits for its end. This process keeps a copy of the
//!    lifeline meanwhile, since programs that start other programs, such as sudo(8), close
//!    inherited descriptors. If the service ends the owner all the same, the lifeline is closed;
//!    this is reported, and the command continues.
//! 4. Finds the processes that survive the command ([`survivors`]). Binds a process that has one of
//!    the disks open, but not the lifeline, to the owner, since it may be the VM.
//! 5. Closes its copy of the lifeline. If no other process has the lifeline, the owner ends, and
//!    this process waits for that, so that a later request finds the disks unlocked. A daemon that
//!    the command has started has inherited the lifeline and keeps the disks locked until it ends.
//!    Either outcome is reported.

pub(crate) mod start;
mod survivors;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};
use uuid::Uuid;
use zbus::{MatchRule, OwnedObjectPath};

use crate::cli::acquire::open::{
    OpenedOwner, OwnerRequest, check_name, check_uuid, name_for_command,
};
use crate::cli::acquire::request::DiskRequest;
use crate::cli::acquire::timer::WaitOption;
use crate::cli::acquire::why::WhyOption;
use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::run::start::PendingCommand;
use crate::cli::run::survivors::Survivor;
use crate::cli::target::disk::Disk;
use crate::cli::target::disk_name::absolute;
use crate::cli::terminal::output::{print_message, print_notice};
use crate::cli::terminal::signals::{Signals, is_sent_to_group};
use crate::client::{Event, MANAGER_PATH, Options, OwnerProxy, Subscription};
use crate::lock::model::loss_action::OnLost;

/// The time to wait for the end of an owner whose lifeline another process may have, after the
/// service has detected that the copy of this process is closed.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout of calls to the service after the end of the command.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(5);

const EXAMPLE: &str = "\
Example:
  vmlockctl run --name web1 --disk web1.qcow2 \\
      --disk base.qcow2:shared -- \\
      qemu-system-x86_64 -nographic -drive file=web1.qcow2

While QEMU runs, no other owner can lock web1.qcow2, and none can lock base.qcow2 \
exclusively. If another owner holds one of them, QEMU is not started, the error \
names the holder, and the exit code is 75. With --wait, QEMU is started once both \
can be locked.

The command and its child processes inherit a descriptor that keeps the disks \
locked until all of them have closed it or ended. Its number is in \
VMLOCKD_LIFELINE_FD, the owner's UUID in VMLOCKD_OWNER.";

/// Run a command with disks locked
#[derive(Debug, Args)]
#[command(
    override_usage = "vmlockctl run [OPTION]... --disk PATH[:MODE]...\n                     -- COMMAND [ARG]...",
    after_help = EXAMPLE
)]
pub(crate) struct Arguments {
    /// The owner's name [default: the command's name]
    #[arg(long, value_parser = check_name)]
    name: Option<String>,
    /// The owner's UUID [default: a new one]
    #[arg(long, value_parser = check_uuid)]
    uuid: Option<String>,
    /// A disk image or block device; MODE is 'exclusive' (default) or 'shared'
    #[arg(
        long = "disk", value_name = "PATH[:MODE]", value_parser = Disk::parser(),
        required_unless_present = "leases"
    )]
    disks: Vec<Disk>,
    /// A lease in a lockspace, see 'vmlockctl lockspace --help'
    #[arg(long = "lease", value_name = "DIRECTORY/KEY[:MODE]", value_parser = Disk::lease_parser())]
    leases: Vec<Disk>,
    #[command(flatten)]
    why: WhyOption,
    #[command(flatten)]
    wait: WaitOption,
    /// Exit with this code instead of 75 if a disk is locked by another owner, or --wait times out
    #[arg(short = 'E', long, value_name = "NUMBER", default_value_t = Exit::LOCKED.status(),
        hide_default_value = true)]
    conflict_exit_code: u8,
    /// Also lock disks that this host itself uses
    #[arg(long)]
    in_use: bool,
    /// The action on the command when a lock is lost.
    #[arg(long, value_name = "ACTION", default_value = "notify", hide_default_value = true,
        value_parser = PossibleValuesParser::new(OnLost::ALL.map(OnLost::as_str))
            .try_map(|word| word.parse::<OnLost>().map_err(|()| "no such action")),
        help = "What to do with the command if a lock is lost: 'notify' (nothing), 'pause' or 'kill'")]
    on_lost: OnLost,
    /// The command to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl Arguments {
    /// Returns the number of disks and leases to lock.
    pub(crate) fn disks(&self) -> usize {
        self.disks.len() + self.leases.len()
    }

    /// Whether the command waits for disks that are locked by other owners.
    pub(crate) fn waits(&self) -> bool {
        self.wait.is_wanted()
    }
}

/// Runs the command. Returns its exit code, or the signal that terminated it.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
) -> Result<Exit, Error> {
    let conflict = Exit::Status(arguments.conflict_exit_code);
    match run_locked(service, arguments).await {
        // Only the locks can fail with this code, before the command is started.
        Err(error) if error.exit() == Exit::LOCKED => {
            if let Some(message) = error.message(service.bus) {
                print_message(&message);
            }
            Ok(conflict)
        }
        ended => ended,
    }
}

async fn run_locked(service: &ServiceConnection, arguments: Arguments) -> Result<Exit, Error> {
    let Arguments { name, uuid, why, mut disks, leases, wait, in_use, on_lost, command, .. } =
        arguments;
    disks.extend(leases);
    let name = name.unwrap_or_else(|| name_of(&command));
    let uuid = uuid.unwrap_or_else(|| Uuid::new_v4().to_string());
    let mut signals = Signals::catch()?;
    let wait = wait.limit();
    let disks = DiskRequest { disks: &disks, in_use };
    let (name, uuid) = (&name, &uuid);
    let why = why.text();
    let request = OwnerRequest { name, why, uuid, manual: false, disks, on_lost, wait };
    let OpenedOwner { path, lifeline } = tokio::select! {
        // The end of this process closes the lifeline, even if the reply with it was not yet
        // received.
        signal = signals.next() => return Err(Error::Interrupted(signal as i32)),
        opened = request.open(service) => opened?,
    };
    survivors::adopt_orphans();
    let pending = start::spawn(&command, uuid, &lifeline)?;
    let status = supervise(service, &path, pending, &mut signals, &lifeline).await?;
    let paths = disks.disks.iter().filter_map(|disk| absolute(&disk.path).ok()).collect();
    let mut survivors = survivors::find_survivors(&lifeline, paths).await;
    bind_survivors(service, &path, &mut survivors).await;
    let owner_stays = close_lifeline(service, &path, lifeline).await;
    report_survivors(owner_stays, survivors).await;
    Ok(exit_for(status))
}

/// Binds processes that use a disk without the lifeline to the owner (step 4).
async fn bind_survivors(
    service: &ServiceConnection,
    path: &OwnedObjectPath,
    survivors: &mut [Survivor],
) {
    for survivor in survivors.iter_mut().filter(|it| it.disk.is_some() && !it.has_lifeline) {
        let bound = async {
            let owner = service.owner(path).await?;
            owner.bind_process(survivor.pidfd.as_fd().into(), Options::new()).await?;
            Ok::<_, Error>(())
        };
        survivor.is_bound = matches!(timeout(SERVICE_TIMEOUT, bound).await, Ok(Ok(())));
    }
}

/// Reports disks that stay locked, or processes that run without a lock.
async fn report_survivors(owner_stays: Option<bool>, survivors: Vec<Survivor>) {
    if owner_stays == Some(true) {
        print_notice(&locked_disks_notice(&survivors));
        return;
    }
    // Processes that end with the command are not reported.
    let _ = timeout(END_TIMEOUT, survivors::wait_for_end(&survivors)).await;
    let survivors: Vec<Survivor> = survivors.into_iter().filter(Survivor::is_alive).collect();
    if owner_stays == Some(false) && !survivors.is_empty() {
        let (names, are) =
            (survivors::names(&survivors), if survivors.len() == 1 { "is" } else { "are" });
        print_message(&format!(
            "the command has ended and its disks are no longer locked, but {names}, which it \
             started, {are} running without the descriptor that keeps them locked; see 'What keeps \
             the disks locked' in vmlockctl(1) for programs that use a disk in the background"
        ));
    }
}

/// Returns the message for an owner that stays open.
fn locked_disks_notice(survivors: &[Survivor]) -> String {
    let keepers: Vec<&Survivor> =
        survivors.iter().filter(|it| it.has_lifeline || it.is_bound).collect();
    let keepers = if keepers.is_empty() { survivors.iter().collect() } else { keepers };
    let (names, end) = match keepers.len() {
        0 => ("another process that has the lifeline open".to_owned(), "keeps the disks locked"),
        1 => (survivors::names(keepers.iter().copied()), "keeps the disks locked until it ends"),
        _ => (survivors::names(keepers.iter().copied()), "keep the disks locked until they end"),
    };
    format!("the command has ended, but processes that it started still run: {names} {end}")
}

/// Binds the command, starts it, and waits for its end (steps 2 and 3).
async fn supervise(
    service: &ServiceConnection,
    owner: &OwnedObjectPath,
    pending: PendingCommand,
    signals: &mut Signals,
    lifeline: &OwnedFd,
) -> Result<ExitStatus, Error> {
    let PendingCommand { mut child, pidfd, gate } = pending;
    let owner = service.owner(owner).await?;
    let bound = owner.bind_process(pidfd.as_fd().into(), Options::new());
    tokio::pin!(bound);
    let mut gate = Some(gate);
    let pid = child.id();
    let lifeline = lifeline
        .try_clone()
        .and_then(pipe::Receiver::from_owned_fd)
        .map_err(|error| Error::system("watch the lifeline", error))?;
    let mut lifeline_open = true;
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|error| Error::system("wait for the command", error));
            }
            signal = signals.next_or_child() => match signal {
                Some(signal) => forward_signal(&pidfd, signal),
                None => survivors::reap_orphans(pid),
            },
            reply = &mut bound, if gate.is_some() => match (reply, gate.take()) {
                (Ok(()), Some(gate)) => gate.open()?,
                // The process ends when the gate is dropped.
                (Err(error), _) => return Err(error.into()),
                (Ok(()), None) => {}
            },
            () = lifeline_closed(&lifeline), if lifeline_open => {
                lifeline_open = false;
                print_message(
                    "the disks are no longer locked, but the command still runs: vmlockd has closed \
                     its owner, perhaps at the request of another program; stop the command before \
                     another program uses the disks",
                );
            }
        }
    }
}

/// Returns when the service has closed its end of the lifeline. The lifeline carries no data, so
/// only the end of the pipe can be read.
async fn lifeline_closed(lifeline: &pipe::Receiver) {
    while lifeline.readable().await.is_ok() {
        if !matches!(lifeline.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        {
            return;
        }
    }
}

/// Forwards a signal to the command, unless the terminal has sent it to the command, too.
fn forward_signal(pidfd: &OwnedFd, signal: Signal) {
    if is_sent_to_group(signal) {
        return;
    }
    if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
        // The command may have ended, or run as a user that this user cannot signal.
        let _ = rustix::process::pidfd_send_signal(pidfd, signal);
    }
}

/// Closes the lifeline (step 5), even if a call fails. Returns whether the owner stays open; `None`
/// if that is not known.
async fn close_lifeline(
    service: &ServiceConnection,
    path: &OwnedObjectPath,
    lifeline: OwnedFd,
) -> Option<bool> {
    let owner_stays = async {
        let rule = MatchRule::builder()
            .path(MANAGER_PATH)
            .interface("org.freedesktop.DBus.ObjectManager")
            .member("InterfacesRemoved")
            .arg_path(0, path);
        let mut changes = Subscription::new(service.bus_connection().await?, rule).await?;
        let removed = async { while matches!(changes.next().await, Some(Event::Owner(_))) {} };
        let owner = service.owner(path).await?;
        // Another program may have closed the owner.
        if !exists(&owner).await? {
            return Ok::<_, Error>(false);
        }
        drop(lifeline);
        let waited = async {
            // The service has detected the end of the lifeline before it replies.
            if exists(&owner).await? {
                sleep(END_TIMEOUT).await;
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            () = removed => {}
            waited = waited => waited?,
        }
        exists(&owner).await
    };
    timeout(SERVICE_TIMEOUT, owner_stays).await.ok()?.ok()
}

/// Whether an owner exists.
async fn exists(owner: &OwnerProxy<'_>) -> Result<bool, Error> {
    match owner.state().await.map_err(Error::from) {
        Ok(_) => Ok(true),
        Err(error) if error.is_no_such_object() => Ok(false),
        Err(error) => Err(error),
    }
}

fn name_of(command: &[OsString]) -> String {
    let program = command.first().map(|program| program.to_string_lossy());
    name_for_command(&program.unwrap_or_default())
}

fn exit_for(status: ExitStatus) -> Exit {
    match (status.code().map(u8::try_from), status.signal()) {
        (Some(Ok(status)), _) => Exit::Status(status),
        (_, Some(signal)) => Exit::Signal(signal),
        _ => Exit::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_becomes_an_exit_code() {
        assert_eq!(exit_for(ExitStatus::from_raw(0)), Exit::Status(0));
        assert_eq!(exit_for(ExitStatus::from_raw(3 << 8)), Exit::Status(3));
        assert_eq!(exit_for(ExitStatus::from_raw(255 << 8)), Exit::Status(255));
        assert_eq!(exit_for(ExitStatus::from_raw(9)), Exit::Signal(9));
        assert_eq!(exit_for(ExitStatus::from_raw(15 | 0x80)), Exit::Signal(15));
    }
}

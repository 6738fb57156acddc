//! `run`: disks are locked while a command lives.
//!
//! 1. An owner is opened, and the disks are locked: all of them or none, if need be after a wait.
//! 2. The command is started and bound to the owner, see [`self::start`]. It inherits the lifeline.
//! 3. Signals that are meant for it are passed on, and its end is awaited. A copy of the lifeline
//!    stays here meanwhile: programs that start others, sudo for one, close what they inherited.
//!    Should the service end the owner all the same, the lifeline breaks, and that is said; the
//!    command is let alone.
//! 4. What the command has left behind is looked for ([`self::survivors`]). A process that has one of
//!    the disks open, and no lifeline, is bound to the owner: it may be the virtual machine.
//! 5. That copy is closed. If no other process has one, the owner ends now, and this is awaited, so
//!    that a later request finds the disks free. A command that left a daemon behind has left it the
//!    lifeline too: then the disks stay locked for as long as that lives. Either is reported.

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

use crate::cli::acquire::open::{Opened, Opening, check_name, check_uuid, name_after};
use crate::cli::acquire::wait::Wait;
use crate::cli::acquire::why::Why;
use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::run::start::Waiting;
use crate::cli::run::survivors::Survivor;
use crate::cli::target::disk::{Disk, absolute};
use crate::cli::terminal::output::{complain, remark};
use crate::cli::terminal::signals::{Signals, is_for_the_group};
use crate::client::{Event, MANAGER_PATH, Options, OwnerProxy, Subscription};
use crate::lock::on_lost::OnLost;

/// How long to wait for the end of an owner whose lifeline another process may have, once the service
/// has had time to see that this process's copy is closed.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the service has to show that.
const LIMIT: Duration = Duration::from_secs(5);

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
    why: Why,
    #[command(flatten)]
    wait: Wait,
    /// Exit with this code instead of 75 if a disk is locked by another owner, or --wait times out
    #[arg(short = 'E', long, value_name = "NUMBER", default_value_t = Code::HELD.status(),
        hide_default_value = true)]
    conflict_exit_code: u8,
    /// Also lock disks that this host itself uses
    #[arg(long)]
    in_use: bool,
    /// What to do with the command if a lock is lost: 'notify' (nothing), 'pause' or 'kill'
    #[arg(long, value_name = "ACTION", default_value = "notify", hide_default_value = true,
        value_parser = PossibleValuesParser::new(OnLost::ALL.map(OnLost::as_str))
            .try_map(|word| word.parse::<OnLost>().map_err(|()| "no such action")))]
    on_lost: OnLost,
    /// The command to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl Arguments {
    /// How many disks and leases are to be locked.
    pub(crate) fn disks(&self) -> usize {
        self.disks.len() + self.leases.len()
    }

    /// Whether it waits for what others hold.
    pub(crate) fn waits(&self) -> bool {
        self.wait.span().is_some()
    }
}

/// Runs the command, and ends as it does.
pub(crate) async fn perform(link: &Link, arguments: Arguments) -> Result<Code, Error> {
    let conflict = Code::Status(arguments.conflict_exit_code);
    match locked(link, arguments).await {
        // The lock is granted or refused before the command is started.
        Err(error) if error.code() == Code::HELD => {
            if let Some(message) = error.message(link.bus) {
                complain(&message);
            }
            Ok(conflict)
        }
        ended => ended,
    }
}

async fn locked(link: &Link, arguments: Arguments) -> Result<Code, Error> {
    let Arguments { name, uuid, why, mut disks, leases, wait, in_use, on_lost, command, .. } =
        arguments;
    disks.extend(leases);
    let name = name.unwrap_or_else(|| name_of(&command));
    let uuid = uuid.unwrap_or_else(|| Uuid::new_v4().to_string());
    let mut signals = Signals::catch()?;
    let (disks, wait) = (&disks[..], wait.span());
    let (name, uuid) = (&name, &uuid);
    let why = why.text();
    let opening = Opening { name, why, uuid, manual: false, disks, in_use, on_lost, wait };
    let Opened { path, lifeline } = tokio::select! {
        // Our end closes the lifeline, also one that is on its way to us.
        signal = signals.next() => return Err(Error::Interrupted(signal as i32)),
        opened = opening.open(link) => opened?,
    };
    survivors::adopt_orphans();
    let waiting = start::spawn(&command, uuid, &lifeline)?;
    let status = accompany(link, &path, waiting, &mut signals, &lifeline).await?;
    let disks = disks.iter().filter_map(|disk| absolute(&disk.path).ok()).collect();
    let mut left = survivors::survivors(&lifeline, disks).await;
    bind(link, &path, &mut left).await;
    let kept = give_up(link, &path, lifeline).await;
    report(kept, left).await;
    Ok(code_of(status))
}

/// Step 4. Has the owner live for as long as a process that uses a disk of it without a lifeline.
async fn bind(link: &Link, path: &OwnedObjectPath, left: &mut [Survivor]) {
    for survivor in left.iter_mut().filter(|it| it.disk.is_some() && !it.has_lifeline) {
        let bound = async {
            let owner = link.owner(path).await?;
            owner.bind_process(survivor.pidfd.as_fd().into(), Options::new()).await?;
            Ok::<_, Error>(())
        };
        survivor.is_bound = matches!(timeout(LIMIT, bound).await, Ok(Ok(())));
    }
}

/// Reports disks that stay locked, and processes that run without a lock.
async fn report(kept: Option<bool>, left: Vec<Survivor>) {
    if kept == Some(true) {
        remark(&kept_by(&left));
        return;
    }
    // Those that end with the command need no word.
    let _ = timeout(PATIENCE, survivors::ended(&left)).await;
    let left: Vec<Survivor> = left.into_iter().filter(Survivor::lives).collect();
    if kept == Some(false) && !left.is_empty() {
        let (names, are) = (survivors::names(&left), if left.len() == 1 { "is" } else { "are" });
        complain(&format!(
            "the command has ended and its disks are no longer locked, but {names}, which it \
             started, {are} running without the descriptor that keeps them locked; see 'What keeps \
             the disks locked' in vmlockctl(1) for programs that use a disk in the background"
        ));
    }
}

/// The message for an owner that lives on.
fn kept_by(left: &[Survivor]) -> String {
    let keepers: Vec<&Survivor> = left.iter().filter(|it| it.has_lifeline || it.is_bound).collect();
    let keepers = if keepers.is_empty() { left.iter().collect() } else { keepers };
    let (names, end) = match keepers.len() {
        0 => ("another process that has the lifeline open".to_owned(), "keeps the disks locked"),
        1 => (survivors::names(keepers.iter().copied()), "keeps the disks locked until it ends"),
        _ => (survivors::names(keepers.iter().copied()), "keep the disks locked until they end"),
    };
    format!("the command has ended, but processes that it started still run: {names} {end}")
}

/// Steps 2 and 3, from the binding on.
async fn accompany(
    link: &Link,
    owner: &OwnedObjectPath,
    waiting: Waiting,
    signals: &mut Signals,
    lifeline: &OwnedFd,
) -> Result<ExitStatus, Error> {
    let Waiting { mut child, pidfd, gate } = waiting;
    let owner = link.owner(owner).await?;
    let bound = owner.bind_process(pidfd.as_fd().into(), Options::new());
    tokio::pin!(bound);
    let mut gate = Some(gate);
    let pid = child.id();
    let lifeline = lifeline
        .try_clone()
        .and_then(pipe::Receiver::from_owned_fd)
        .map_err(|error| Error::system("watch the lifeline", error))?;
    let mut whole = true;
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|error| Error::system("wait for the command", error));
            }
            signal = signals.next_or_child() => match signal {
                Some(signal) => pass_on(&pidfd, signal),
                None => survivors::reap_orphans(pid),
            },
            answer = &mut bound, if gate.is_some() => match (answer, gate.take()) {
                (Ok(()), Some(gate)) => gate.open()?,
                // With the gate gone the process ends.
                (Err(error), _) => return Err(error.into()),
                (Ok(()), None) => {}
            },
            () = broken(&lifeline), if whole => {
                whole = false;
                complain(
                    "the disks are no longer locked, but the command still runs: vmlockd has closed \
                     its owner, perhaps at the request of another program; stop the command before \
                     another program uses the disks",
                );
            }
        }
    }
}

/// Returns when the service has closed its end of the lifeline. It carries no data, so all there is
/// to read is its end.
async fn broken(lifeline: &pipe::Receiver) {
    while lifeline.readable().await.is_ok() {
        if !matches!(lifeline.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        {
            return;
        }
    }
}

fn pass_on(pidfd: &OwnedFd, signal: Signal) {
    if is_for_the_group(signal) {
        return;
    }
    if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
        // It may have ended meanwhile, or run as a user that this one cannot signal.
        let _ = rustix::process::pidfd_send_signal(pidfd, signal);
    }
}

/// Step 5. Whatever fails here: the lifeline is closed, and the service sees to the rest. Returns whether
/// the owner lives on, if that is known.
async fn give_up(link: &Link, path: &OwnedObjectPath, lifeline: OwnedFd) -> Option<bool> {
    let kept = async {
        let rule = MatchRule::builder()
            .path(MANAGER_PATH)
            .interface("org.freedesktop.DBus.ObjectManager")
            .member("InterfacesRemoved")
            .arg_path(0, path);
        let mut changes = Subscription::new(link.bus().await?, rule).await?;
        let removed = async { while matches!(changes.next().await, Some(Event::Owner(_))) {} };
        let owner = link.owner(path).await?;
        // It may have been closed already.
        if !is_there(&owner).await? {
            return Ok::<_, Error>(false);
        }
        drop(lifeline);
        let waited = async {
            // The service has had time for it when it has answered.
            if is_there(&owner).await? {
                sleep(PATIENCE).await;
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            () = removed => {}
            waited = waited => waited?,
        }
        is_there(&owner).await
    };
    timeout(LIMIT, kept).await.ok()?.ok()
}

async fn is_there(owner: &OwnerProxy<'_>) -> Result<bool, Error> {
    match owner.state().await.map_err(Error::from) {
        Ok(_) => Ok(true),
        Err(error) if error.is_no_such_object() => Ok(false),
        Err(error) => Err(error),
    }
}

fn name_of(command: &[OsString]) -> String {
    let program = command.first().map(|program| program.to_string_lossy());
    name_after(&program.unwrap_or_default())
}

fn code_of(status: ExitStatus) -> Code {
    match (status.code().map(u8::try_from), status.signal()) {
        (Some(Ok(status)), _) => Code::Status(status),
        (_, Some(signal)) => Code::Signal(signal),
        _ => Code::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_becomes_a_code() {
        assert_eq!(code_of(ExitStatus::from_raw(0)), Code::Status(0));
        assert_eq!(code_of(ExitStatus::from_raw(3 << 8)), Code::Status(3));
        assert_eq!(code_of(ExitStatus::from_raw(255 << 8)), Code::Status(255));
        assert_eq!(code_of(ExitStatus::from_raw(9)), Code::Signal(9));
        assert_eq!(code_of(ExitStatus::from_raw(15 | 0x80)), Code::Signal(15));
    }
}

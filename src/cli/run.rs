//! `run`: disks are locked while a command lives.
//!
//! 1. An owner is opened, and the disks are locked: all of them or none, if need be after a wait.
//! 2. The command is started and bound to the owner, see [`super::start`]. It inherits the lease.
//! 3. Signals that are meant for it are passed on, and its end is awaited. A copy of the lease
//!    stays here meanwhile: programs that start others, sudo for one, close what they inherited.
//!    Should the service end the owner all the same, the lease breaks, and that is said; the
//!    command is let alone.
//! 4. That copy is closed. If nobody else has one, the owner ends now, and this is awaited, so that
//!    whoever comes next finds the disks free. A command that left a daemon behind has left it the
//!    lease too: then the disks stay locked for as long as that lives.

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

use super::disks::Disk;
use super::error::{Code, Error};
use super::link::Link;
use super::open::{Opened, Opening, check_name, check_uuid, name_after};
use super::output::complain;
use super::signals::{Signals, is_for_the_group};
use super::start::{self, Waiting};
use super::wait::Wait;
use crate::client::{Event, MANAGER_PATH, Options, Subscription};
use crate::lock::on_lost::OnLost;

/// How long the end of an owner is awaited whose lease somebody else may have, once the service
/// has shown that it had time to see our copy closed.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the service has to show that.
const LIMIT: Duration = Duration::from_secs(5);

const EXAMPLE: &str = "\
Example:
  vmlockctl run --name web1 --disk web1.qcow2 --disk base.qcow2:shared -- \\
      qemu-system-x86_64 -nographic -drive file=web1.qcow2

Nobody else can lock web1.qcow2 until QEMU has ended, and nobody can lock
base.qcow2 exclusively. If somebody holds one of them already, QEMU is not
started, the message says who it is, and the exit code is 75. With --wait it is
started when they are free.

The command, and all that it starts, inherits a descriptor that keeps the disks
locked until the last of them has closed it or ended; its number is in
VMLOCKD_LEASE_FD, the owner's UUID in VMLOCKD_OWNER.";

/// Run a command and keep disks locked for as long as it lives
#[derive(Debug, Args)]
#[command(
    override_usage = "vmlockctl run [--name NAME] [--uuid UUID] [--wait[=DURATION]] [--in-use] [--on-lost=ACTION] --disk PATH[:MODE]... [--lease DIRECTORY/KEY[:MODE]]... -- COMMAND [ARG]...",
    after_help = EXAMPLE
)]
pub(super) struct Arguments {
    /// What to call the machine [default: the command's name]
    #[arg(long, value_parser = check_name)]
    name: Option<String>,
    /// The machine's UUID [default: a new one]
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
    wait: Wait,
    /// Lock disks also while this host uses them itself
    #[arg(long)]
    in_use: bool,
    /// What becomes of the command when a lock is lost: 'notify' (nothing), 'pause' or 'kill'
    #[arg(long, value_name = "ACTION", default_value = "notify", hide_default_value = true,
        value_parser = PossibleValuesParser::new(OnLost::ALL.map(OnLost::as_str))
            .try_map(|word| word.parse::<OnLost>().map_err(|()| "no such action")))]
    on_lost: OnLost,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

impl Arguments {
    /// How many disks and leases are to be locked.
    pub(super) fn disks(&self) -> usize {
        self.disks.len() + self.leases.len()
    }
}

/// Does it.
pub(super) async fn perform(link: &Link, arguments: Arguments) -> Result<Code, Error> {
    let Arguments { name, uuid, mut disks, leases, wait, in_use, on_lost, command } = arguments;
    disks.extend(leases);
    let name = name.unwrap_or_else(|| name_of(&command));
    let uuid = uuid.unwrap_or_else(|| Uuid::new_v4().to_string());
    let mut signals = Signals::catch()?;
    let (disks, wait) = (&disks[..], wait.span());
    let (name, uuid) = (&name, &uuid);
    let opening = Opening { name, uuid, manual: false, disks, in_use, on_lost, wait };
    let Opened { path, lease } = tokio::select! {
        // Our end closes the lease, also one that is on its way to us.
        signal = signals.next() => return Err(Error::Interrupted(signal as i32)),
        opened = opening.open(link) => opened?,
    };
    let waiting = start::spawn(&command, uuid, &lease)?;
    let status = accompany(link, &path, waiting, &mut signals, &lease).await?;
    give_up(link, &path, lease).await;
    Ok(code_of(status))
}

/// Steps 2 and 3, from the binding on.
async fn accompany(
    link: &Link,
    owner: &OwnedObjectPath,
    waiting: Waiting,
    signals: &mut Signals,
    lease: &OwnedFd,
) -> Result<ExitStatus, Error> {
    let Waiting { mut child, pidfd, gate } = waiting;
    let owner = link.owner(owner).await?;
    let bound = owner.bind_process(pidfd.as_fd().into(), Options::new());
    tokio::pin!(bound);
    let mut gate = Some(gate);
    let lease = lease
        .try_clone()
        .and_then(pipe::Receiver::from_owned_fd)
        .map_err(|error| Error::system("watching the lease", error))?;
    let mut whole = true;
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|error| Error::system("waiting for the command", error));
            }
            signal = signals.next() => pass_on(&pidfd, signal),
            answer = &mut bound, if gate.is_some() => match (answer, gate.take()) {
                (Ok(()), Some(gate)) => gate.open()?,
                // With the gate gone the process ends.
                (Err(error), _) => return Err(error.into()),
                (Ok(()), None) => {}
            },
            () = broken(&lease), if whole => {
                whole = false;
                complain(
                    "the disks are no longer locked, but the command runs on: vmlockd, or \
                     somebody through it, has ended the owner",
                );
            }
        }
    }
}

/// Returns when the service has closed its end of the lease. It carries no data, so all there is
/// to read is its end.
async fn broken(lease: &pipe::Receiver) {
    while lease.readable().await.is_ok() {
        if !matches!(lease.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
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
        // It may have ended meanwhile, or belong to somebody whom we can't signal.
        let _ = rustix::process::pidfd_send_signal(pidfd, signal);
    }
}

/// Step 4. Whatever fails here: the lease is closed, and the service sees to the rest.
async fn give_up(link: &Link, path: &OwnedObjectPath, lease: OwnedFd) {
    let gone = async {
        let rule = MatchRule::builder()
            .path(MANAGER_PATH)
            .interface("org.freedesktop.DBus.ObjectManager")
            .member("InterfacesRemoved")
            .arg_path(0, path);
        let mut changes = Subscription::new(&link.connection, rule).await?;
        let removed = async { while matches!(changes.next().await, Some(Event::Owner(_))) {} };
        let owner = link.owner(path).await?;
        // It may be gone already, closed by somebody.
        owner.state().await?;
        drop(lease);
        let kept = async {
            owner.state().await?;
            sleep(PATIENCE).await;
            Ok(())
        };
        tokio::select! {
            () = removed => Ok(()),
            waited = kept => waited,
        }
    };
    let _: Result<Result<(), Error>, _> = timeout(LIMIT, gone).await;
}

fn name_of(command: &[OsString]) -> String {
    let program = command.first().map(|program| program.to_string_lossy());
    name_after(&program.unwrap_or_default())
}

fn code_of(status: ExitStatus) -> Code {
    match (status.code().map(u8::try_from), status.signal()) {
        (Some(Ok(code)), _) => Code(code),
        (_, Some(signal)) => Code::killed_by(signal),
        _ => Code::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_becomes_a_code() {
        assert_eq!(code_of(ExitStatus::from_raw(0)), Code(0));
        assert_eq!(code_of(ExitStatus::from_raw(3 << 8)), Code(3));
        assert_eq!(code_of(ExitStatus::from_raw(255 << 8)), Code(255));
        assert_eq!(code_of(ExitStatus::from_raw(9)), Code(137));
        assert_eq!(code_of(ExitStatus::from_raw(15 | 0x80)), Code(143));
    }
}

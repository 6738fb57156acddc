//! The ends and restarts of the service.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::signal::Signal;

use super::memory;

use crate::fixture::NameWatch;
use crate::nspawn::{Host, MainProcess};

const UNIT: &str = "vmlockd.service";
const BINARY: &str = "/usr/sbin/vmlockd";
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// A thing that happens to it, or to systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It is killed.
    Kill,
    /// Its successor is killed, too: what was handed on once is handed on again.
    Kills,
    /// It grows beyond the memory that its control group may have.
    OutOfMemory,
    /// It ends itself, as a program does that has found a mistake of its own.
    Abort,
    /// An administrator restarts it.
    Restart,
    /// A restart after the running binary has been replaced.
    Replace,
    /// It is stopped, replaced, and started: how some packages do it.
    Upgrade,
    /// systemd executes itself again.
    Reexec,
    /// systemd reads all units again.
    Reload,
}

impl Event {
    /// Whether the process that was there before is the service afterwards.
    pub(super) fn leaves_the_process(self) -> bool {
        matches!(self, Self::Reexec | Self::Reload)
    }

    /// Causes the event; when this returns, the service is running.
    pub(super) async fn happen(self, host: &Host, before: MainProcess) -> MainProcess {
        let mut watch = host.watch().await;
        match self {
            Self::Kill => before.signal(Signal::SIGKILL),
            Self::Kills => {
                before.signal(Signal::SIGKILL);
                let next = host.successor(&mut watch, before).await;
                next.signal(Signal::SIGKILL);
                return host.successor(&mut watch, next).await;
            }
            Self::OutOfMemory => memory::exhaust(host, before, &mut watch).await,
            Self::Abort => before.signal(Signal::SIGABRT),
            Self::Restart => drop(host.systemctl(&["restart", UNIT]).await),
            Self::Replace => {
                replace_binary(host);
                host.systemctl(&["restart", UNIT]).await;
            }
            Self::Upgrade => {
                host.systemctl(&["stop", UNIT]).await;
                replace_binary(host);
                host.systemctl(&["daemon-reload"]).await;
                host.systemctl(&["start", UNIT]).await;
            }
            Self::Reexec => {
                let mut systemd = NameWatch::new(&host.bus().await, SYSTEMD).await;
                let first = systemd.owned().await;
                host.systemctl(&["daemon-reexec"]).await;
                // It comes back to the bus under another unique name.
                systemd.owned_by_other_than(&first).await;
            }
            Self::Reload => drop(host.systemctl(&["daemon-reload"]).await),
        }
        if self.leaves_the_process() {
            watch.owned_by(before.inside).await;
            return host.main().await;
        }
        let after = host.successor(&mut watch, before).await;
        if matches!(self, Self::Replace | Self::Upgrade) {
            let runs = fs::metadata(format!("/proc/{}/exe", after.outside)).unwrap();
            assert_eq!(runs.ino(), fs::metadata(host.at(BINARY)).unwrap().ino());
        }
        after
    }
}

/// Another file under the same name, as package managers put it there.
fn replace_binary(host: &Host) {
    let (binary, new) = (host.at(BINARY), host.at(format!("{BINARY}.new")));
    fs::copy(&binary, &new).unwrap();
    fs::rename(&new, &binary).unwrap();
}

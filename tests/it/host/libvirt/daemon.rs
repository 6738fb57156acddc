//! The lock daemons that serve libvirt.

use crate::nspawn::Host;

/// A lock daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockDaemon {
    /// libvirt's own.
    Virtlockd,
    /// The service.
    Vmlockd,
}

impl LockDaemon {
    /// Replaces the other daemon by this one as its documentation describes; libvirt is stopped. After
    /// a boot, the other one serves.
    pub(super) async fn take_over(self, host: &Host) {
        match self {
            // It is there when libvirt is installed.
            LockDaemon::Virtlockd => {}
            LockDaemon::Vmlockd => {
                host.systemctl(&["disable", "--quiet", "--now", "virtlockd.socket"]).await;
                host.systemctl(&["mask", "--quiet", "virtlockd.service", "virtlockd-admin.socket"])
                    .await;
                host.systemctl(&["enable", "--quiet", "vmlockd.service", SOCKET]).await;
                // It may run already, without the socket.
                host.systemctl(&["restart", "vmlockd.service"]).await;
            }
        }
    }

    /// Puts virtlockd back in its place, as vmlockd(8) says. The service runs on, for other callers.
    pub(super) async fn go_back(self, host: &Host) {
        assert_eq!(self, LockDaemon::Virtlockd);
        host.systemctl(&["disable", "--quiet", "--now", SOCKET]).await;
        host.systemctl(&["unmask", "--quiet", "virtlockd.service", "virtlockd-admin.socket"]).await;
        host.systemctl(&["enable", "--quiet", "--now", "virtlockd.socket"]).await;
        host.systemctl(&["start", "libvirtd.service"]).await;
    }
}

const SOCKET: &str = "vmlockd-virtlockd.socket";

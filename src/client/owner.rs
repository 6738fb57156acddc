//! One machine, from outside.

use zbus::{Fd, OwnedFd, OwnedObjectPath};

use super::Options;

/// A virtual machine that may hold locks.
#[zbus::proxy(interface = "org.vmlockd1.Owner", default_service = "org.vmlockd1")]
pub trait Owner {
    /// Locks resources by name: all of them or none.
    fn acquire(
        &self,
        resources: &[(&str, &str)],
        options: Options<'_>,
    ) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// Locks resources by name and files that the caller has open: all of them or none.
    fn acquire_with_files(
        &self,
        resources: &[(&str, &str)],
        files: &[(Fd<'_>, &str)],
        options: Options<'_>,
    ) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// Releases locks: all of them or none.
    fn release(&self, locks: &[OwnedObjectPath], options: Options<'_>) -> zbus::Result<()>;

    /// Gives another lifeline.
    fn new_lifeline(&self, options: Options<'_>) -> zbus::Result<OwnedFd>;

    /// Makes a process an anchor, by its pidfd.
    fn bind_process(&self, process: Fd<'_>, options: Options<'_>) -> zbus::Result<()>;

    /// Makes a process an anchor, by its number; 0 means the caller.
    #[zbus(name = "BindPID")]
    fn bind_pid(&self, pid: u32, options: Options<'_>) -> zbus::Result<()>;

    /// Gives up all that it holds, and remembers it.
    fn suspend(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Acquires again what it remembers.
    fn resume(&self, options: Options<'_>) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// Offers all that it holds to whoever knows the token.
    fn offer(&self, options: Options<'_>) -> zbus::Result<String>;

    /// Takes over what another owner offers.
    fn adopt(&self, token: &str, options: Options<'_>) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// Withdraws all that the owner waits for, and what it offers.
    fn cancel(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Releases all that the owner holds and forgets it.
    fn close(&self, options: Options<'_>) -> zbus::Result<()>;

    /// The machine's UUID.
    #[zbus(property(emits_changed_signal = "const"), name = "UUID")]
    fn uuid(&self) -> zbus::Result<String>;

    /// What people call the machine.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> zbus::Result<String>;

    /// What its locks are for, as its opener says.
    #[zbus(property(emits_changed_signal = "const"))]
    fn why(&self) -> zbus::Result<String>;

    /// The user who opened it.
    #[zbus(property(emits_changed_signal = "const"), name = "UID")]
    fn uid(&self) -> zbus::Result<u32>;

    /// The way by which it came in.
    #[zbus(property(emits_changed_signal = "const"))]
    fn frontend(&self) -> zbus::Result<String>;

    /// What becomes of its processes when a lock is lost.
    #[zbus(property(emits_changed_signal = "const"))]
    fn on_lost(&self) -> zbus::Result<String>;

    /// When it was opened, in microseconds since the epoch.
    #[zbus(property(emits_changed_signal = "const"), name = "SinceUSec")]
    fn since_usec(&self) -> zbus::Result<u64>;

    /// The process that keeps it alive, or 0.
    #[zbus(property(emits_changed_signal = "false"), name = "PID")]
    fn pid(&self) -> zbus::Result<u32>;

    /// Whether it runs.
    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> zbus::Result<String>;

    /// What it remembers.
    #[zbus(property(emits_changed_signal = "false"))]
    fn suspended(&self) -> zbus::Result<Vec<(String, String)>>;

    /// What keeps it alive.
    #[zbus(property(emits_changed_signal = "false"))]
    fn anchors(&self) -> zbus::Result<Vec<String>>;

    /// What it holds.
    #[zbus(property(emits_changed_signal = "false"))]
    fn locks(&self) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// It has been granted a lock.
    #[zbus(signal)]
    fn lock_acquired(
        &self,
        lock: OwnedObjectPath,
        resource: String,
        mode: String,
    ) -> zbus::Result<()>;

    /// A lock of its has been released.
    #[zbus(signal)]
    fn lock_released(
        &self,
        lock: OwnedObjectPath,
        resource: String,
        reason: String,
    ) -> zbus::Result<()>;

    /// A lock of its is not there any more.
    #[zbus(signal)]
    fn lock_lost(
        &self,
        lock: OwnedObjectPath,
        resource: String,
        reason: String,
    ) -> zbus::Result<()>;
}

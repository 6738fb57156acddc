//! The proxy of an owner.

use zbus::{Fd, OwnedFd, OwnedObjectPath};

use super::Options;

/// An owner: a virtual machine that can hold locks.
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

    /// Returns another lifeline.
    fn new_lifeline(&self, options: Options<'_>) -> zbus::Result<OwnedFd>;

    /// Binds a process to the owner, by its pidfd.
    fn bind_process(&self, process: Fd<'_>, options: Options<'_>) -> zbus::Result<()>;

    /// Binds a process to the owner, by its PID; 0 means the caller.
    #[zbus(name = "BindPID")]
    fn bind_pid(&self, pid: u32, options: Options<'_>) -> zbus::Result<()>;

    /// Releases all locks of the owner, and remembers them.
    fn suspend(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Acquires the remembered locks again.
    fn resume(&self, options: Options<'_>) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// Offers all locks of the owner to the caller that knows the token.
    fn offer(&self, options: Options<'_>) -> zbus::Result<String>;

    /// Takes over the locks that another owner offers.
    fn adopt(&self, token: &str, options: Options<'_>) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// Cancels the waiting requests of the owner, and withdraws its offer.
    fn cancel(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Releases all locks of the owner, and removes it.
    fn close(&self, options: Options<'_>) -> zbus::Result<()>;

    /// The UUID of the VM.
    #[zbus(property(emits_changed_signal = "const"), name = "UUID")]
    fn uuid(&self) -> zbus::Result<String>;

    /// The name of the VM.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> zbus::Result<String>;

    /// The purpose of its locks.
    #[zbus(property(emits_changed_signal = "const"))]
    fn why(&self) -> zbus::Result<String>;

    /// The uid of the user who opened it.
    #[zbus(property(emits_changed_signal = "const"), name = "UID")]
    fn uid(&self) -> zbus::Result<u32>;

    /// The frontend by which it was opened.
    #[zbus(property(emits_changed_signal = "const"))]
    fn frontend(&self) -> zbus::Result<String>;

    /// The action on its processes when a lock is lost.
    #[zbus(property(emits_changed_signal = "const"))]
    fn on_lost(&self) -> zbus::Result<String>;

    /// The time at which it was opened, in microseconds since 1970.
    #[zbus(property(emits_changed_signal = "const"), name = "SinceUSec")]
    fn since_usec(&self) -> zbus::Result<u64>;

    /// The PID of a process that is bound to it, or 0.
    #[zbus(property(emits_changed_signal = "false"), name = "PID")]
    fn pid(&self) -> zbus::Result<u32>;

    /// The state: running or suspended.
    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> zbus::Result<String>;

    /// The locks that it remembers: names and modes.
    #[zbus(property(emits_changed_signal = "false"))]
    fn suspended(&self) -> zbus::Result<Vec<(String, String)>>;

    /// The kinds of its anchors.
    #[zbus(property(emits_changed_signal = "false"))]
    fn anchors(&self) -> zbus::Result<Vec<String>>;

    /// The locks that it holds.
    #[zbus(property(emits_changed_signal = "false"))]
    fn locks(&self) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// A lock was granted to the owner.
    #[zbus(signal)]
    fn lock_acquired(
        &self,
        lock: OwnedObjectPath,
        resource: String,
        mode: String,
    ) -> zbus::Result<()>;

    /// A lock of the owner was released.
    #[zbus(signal)]
    fn lock_released(
        &self,
        lock: OwnedObjectPath,
        resource: String,
        reason: String,
    ) -> zbus::Result<()>;

    /// A lock of the owner was lost.
    #[zbus(signal)]
    fn lock_lost(
        &self,
        lock: OwnedObjectPath,
        resource: String,
        reason: String,
    ) -> zbus::Result<()>;
}

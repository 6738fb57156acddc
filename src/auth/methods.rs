//! The authorization table: every method that can be called, with the polkit actions that it may
//! check.
//!
//! Reading properties and listing objects needs no authorization, as with libvirt and
//! systemd-machined; the result may be less than everything ([`crate::privacy`]).

use super::action::Action;

/// The Manager's interface.
pub const MANAGER: &str = "org.vmlockd1.Manager";
/// The interface of an owner.
pub const OWNER: &str = "org.vmlockd1.Owner";
/// The interface of a lock.
pub const LOCK: &str = "org.vmlockd1.Lock";
/// systemd's interface for the log of a service, org.freedesktop.LogControl1(5).
pub const LOG_CONTROL: &str = "org.freedesktop.LogControl1";

/// A row of the authorization table.
#[derive(Debug, Clone, Copy)]
pub struct MethodRule {
    /// The D-Bus interface.
    pub interface: &'static str,
    /// The method, or the property that is written.
    pub member: &'static str,
    /// The actions that the method may check, depending on its arguments; empty for a method that
    /// needs no authorization.
    pub actions: &'static [Action],
}

const fn row(
    interface: &'static str,
    member: &'static str,
    actions: &'static [Action],
) -> MethodRule {
    MethodRule { interface, member, actions }
}

/// The table.
#[rustfmt::skip]
pub const METHODS: &[MethodRule] = {
    use Action::{AcquireByDescriptor, AcquireByName, ManageForeign, ManageLockspaces, OpenOwner, RegisterProcess, ReleaseForeign, Reload, ViewForeign};
    &[
        row(MANAGER, "OpenOwner", &[OpenOwner, RegisterProcess, AcquireByName]),
        row(MANAGER, "RegisterOwner", &[OpenOwner, RegisterProcess, AcquireByName]),
        row(MANAGER, "GetOwner", &[]),
        row(MANAGER, "GetOwnerByPID", &[]),
        row(MANAGER, "ListOwners", &[]),
        row(MANAGER, "ListLocks", &[]),
        row(MANAGER, "ListWaiting", &[]),
        row(MANAGER, "FindHolders", &[AcquireByName]),
        row(MANAGER, "FindHoldersOfFile", &[]),
        row(MANAGER, "Resolve", &[AcquireByName]),
        row(MANAGER, "ResolveFile", &[]),
        row(MANAGER, "CreateLockspace", &[ManageLockspaces]),
        row(MANAGER, "RemoveLockspace", &[ManageLockspaces]),
        row(MANAGER, "CreateLease", &[ManageLockspaces]),
        row(MANAGER, "RemoveLease", &[ManageLockspaces]),
        row(MANAGER, "GetMetrics", &[ViewForeign]),
        row(MANAGER, "Reload", &[Reload]),
        row(MANAGER, "Reexecute", &[Reload]),
        row(OWNER, "Acquire", &[ManageForeign, AcquireByName]),
        row(OWNER, "AcquireWithFiles", &[ManageForeign, AcquireByDescriptor, AcquireByName]),
        row(OWNER, "Release", &[ReleaseForeign]),
        row(OWNER, "NewLifeline", &[ManageForeign]),
        row(OWNER, "BindProcess", &[ManageForeign, RegisterProcess]),
        row(OWNER, "BindPID", &[ManageForeign, RegisterProcess]),
        row(OWNER, "Suspend", &[ManageForeign, ReleaseForeign]),
        row(OWNER, "Resume", &[ManageForeign]),
        row(OWNER, "Offer", &[ManageForeign, ReleaseForeign]),
        row(OWNER, "Adopt", &[ManageForeign]),
        row(OWNER, "Cancel", &[ManageForeign]),
        row(OWNER, "Close", &[ManageForeign, ReleaseForeign]),
        row(LOCK, "Release", &[ReleaseForeign]),
        row(LOCK, "Convert", &[ManageForeign, AcquireByDescriptor, AcquireByName]),
        row(LOG_CONTROL, "LogLevel", &[Reload]),
        row(LOG_CONTROL, "LogTarget", &[Reload]),
    ]
};

/// Returns the row of a method; `None` for a method that no caller may call.
#[must_use]
pub fn find(interface: &str, member: &str) -> Option<&'static MethodRule> {
    METHODS.iter().find(|method| method.interface == interface && method.member == member)
}

//! Every guarded deed: one table that answers "who may do what".

use std::collections::HashMap;

use crate::lock::lease::spoken;
use crate::lock::printable::shown;

/// What polkit's rules and dialogs get to know of a deed; see the action file for the keys.
pub type Details<'d> = HashMap<&'static str, &'d str>;

/// What polkit is asked about. The names, defaults and dialog texts are in
/// `polkit/org.vmlockd1.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Opening an owner; registering one's own process as one.
    OpenOwner,
    /// Locking a file that the caller has open: for writing, or for reading and owned by him.
    AcquireByDescriptor,
    /// Locking, or finding out about, a file that the caller only names.
    AcquireByName,
    /// Binding an owner to another user's process.
    RegisterProcess,
    /// Commanding another user's owner.
    ManageForeign,
    /// Breaking another user's lock.
    ReleaseForeign,
    /// Seeing what belongs to other users, where that is hidden.
    ViewForeign,
    /// Making and removing lockspaces, and the leases in them.
    ManageLockspaces,
    /// Loading the configuration again; setting the log level.
    Reload,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::OpenOwner,
        Self::AcquireByDescriptor,
        Self::AcquireByName,
        Self::RegisterProcess,
        Self::ManageForeign,
        Self::ReleaseForeign,
        Self::ViewForeign,
        Self::ManageLockspaces,
        Self::Reload,
    ];

    /// Its name for polkit.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::OpenOwner => "org.vmlockd1.open-owner",
            Self::AcquireByDescriptor => "org.vmlockd1.acquire-by-descriptor",
            Self::AcquireByName => "org.vmlockd1.acquire-by-name",
            Self::RegisterProcess => "org.vmlockd1.register-process",
            Self::ManageForeign => "org.vmlockd1.manage-foreign",
            Self::ReleaseForeign => "org.vmlockd1.release-foreign",
            Self::ViewForeign => "org.vmlockd1.view-foreign",
            Self::ManageLockspaces => "org.vmlockd1.manage-lockspaces",
            Self::Reload => "org.vmlockd1.reload",
        }
    }

    /// Describes what was asked for, in words that follow "cannot".
    #[must_use]
    pub fn describe(self, details: &Details<'_>) -> String {
        let word = |key| details.get(key).map(|word| shown(word)).unwrap_or_default();
        let (disk, vm) = (spoken(&word("resource")), word("vm"));
        match self {
            Self::OpenOwner => format!("open an owner for VM \"{vm}\""),
            Self::AcquireByDescriptor => format!("lock {disk}"),
            Self::AcquireByName if details.contains_key("mode") => format!("lock {disk} by name"),
            Self::AcquireByName => format!("look up {disk} by name"),
            Self::RegisterProcess => {
                format!("bind VM \"{vm}\" to a process of another user")
            }
            Self::ManageForeign => format!("command VM \"{vm}\" of another user"),
            Self::ReleaseForeign => {
                format!("release {disk} of VM {}", word("holder"))
            }
            Self::ViewForeign => "view the owners and locks of other users".to_owned(),
            Self::ManageLockspaces => {
                let resource = word("resource");
                let what = if resource.starts_with('/') { "lockspace " } else { "" };
                format!("create or remove {what}{}", resource.replacen("lease:", "lease ", 1))
            }
            Self::Reload => "reconfigure vmlockd".to_owned(),
        }
    }

    /// What else the caller can do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::OpenOwner => {
                "use your own service on the session bus, or have an administrator authorize you"
            }
            Self::AcquireByDescriptor | Self::AcquireByName => {
                "pass a descriptor that is open for reading and writing (vmlockctl does, where the \
                 disk's permissions allow it), use your own service on the session bus, or have an \
                 administrator authorize you"
            }
            Self::RegisterProcess => {
                "name a process of your own, or have an administrator authorize you"
            }
            Self::ManageForeign | Self::ReleaseForeign => {
                "ask the user of that VM, or have an administrator authorize you"
            }
            Self::ViewForeign | Self::ManageLockspaces | Self::Reload => {
                "call as root, or have an administrator authorize you"
            }
        }
    }
}

/// A row of the list.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The D-Bus interface.
    pub interface: &'static str,
    /// The method, or the property that is written.
    pub member: &'static str,
    /// What it may ask about, as its arguments require; nothing for what everybody may.
    pub actions: &'static [Action],
}

/// The Manager's interface.
pub const MANAGER: &str = "org.vmlockd1.Manager";
/// An owner's interface.
pub const OWNER: &str = "org.vmlockd1.Owner";
/// A lock's interface.
pub const LOCK: &str = "org.vmlockd1.Lock";
/// systemd's interface to a service's log.
pub const LOG_CONTROL: &str = "org.freedesktop.LogControl1";

const fn row(interface: &'static str, member: &'static str, actions: &'static [Action]) -> Row {
    Row { interface, member, actions }
}

/// The list. Reading properties and listing objects is open to all, as with libvirt and machined;
/// what is read and listed may be less ([`crate::privacy`]).
#[rustfmt::skip]
pub const TABLE: &[Row] = {
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

/// The row of a method; `None` means that nobody may call it.
#[must_use]
pub fn find(interface: &str, member: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.interface == interface && row.member == member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deed_is_described_with_its_object() {
        let details = Details::from([
            ("resource", "/srv/a\n.img"),
            ("vm", "web1"),
            ("mode", "exclusive"),
            ("holder", "db1 of uid 0"),
        ]);
        for action in Action::ALL {
            let deed = action.describe(&details);
            let named = match action {
                Action::OpenOwner | Action::RegisterProcess | Action::ManageForeign => {
                    deed.contains("VM \"web1\"")
                }
                Action::ReleaseForeign => deed == "release disk /srv/a\\n.img of VM db1 of uid 0",
                Action::Reload | Action::ViewForeign => true,
                _ => deed.contains("/srv/a\\n.img"),
            };
            assert!(named, "{action:?}: {deed}");
        }
        let lease = Details::from([("resource", "lease:/srv/l/a")]);
        assert_eq!(Action::AcquireByName.describe(&lease), "look up lease /srv/l/a by name");
        let made = Action::ManageLockspaces.describe(&lease);
        assert_eq!(made, "create or remove lease /srv/l/a");
        let lockspace = Details::from([("resource", "/srv/l")]);
        let made = Action::ManageLockspaces.describe(&lockspace);
        assert_eq!(made, "create or remove lockspace /srv/l");
    }
}

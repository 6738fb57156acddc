//! The polkit actions, with the words that describe a refused request.

use std::collections::HashMap;

use crate::lock::model::lease_name::spoken;
use crate::lock::text::escape::shown;
use crate::phrases::AUTHORIZE;

/// The details of a request that polkit's rules and dialogs can use. The keys are documented in
/// `polkit/org.vmlockd1.policy`.
pub type Details<'d> = HashMap<&'static str, &'d str>;

/// A polkit action. The identifiers, defaults and dialog texts are in `polkit/org.vmlockd1.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open an owner; register a process of the caller's user as one.
    OpenOwner,
    /// Lock a file that the caller has open for writing, or that it has open for reading and its
    /// user owns.
    AcquireByDescriptor,
    /// Lock, or look up, a file that the caller only names.
    AcquireByName,
    /// Bind an owner to a process of another user.
    RegisterProcess,
    /// Command an owner of another user.
    ManageForeign,
    /// Release a lock of another user.
    ReleaseForeign,
    /// View the owners and locks of other users while the configuration hides them.
    ViewForeign,
    /// Create and remove lockspaces, and the leases in them.
    ManageLockspaces,
    /// Reload the configuration; set the log level.
    Reload,
}

impl Action {
    /// All actions.
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

    /// Returns the action's identifier.
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

    /// Describes the request that needs this action, in words that follow "cannot".
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

    /// Returns what the caller can do instead.
    #[must_use]
    pub fn advice(self) -> String {
        let alternative = match self {
            Self::OpenOwner => "use your own service on the session bus",
            Self::AcquireByDescriptor | Self::AcquireByName => {
                "pass a descriptor that is open for reading and writing (vmlockctl does, where the \
                 disk's permissions allow it), use your own service on the session bus"
            }
            Self::RegisterProcess => "name a process of your own",
            Self::ManageForeign | Self::ReleaseForeign => "ask the user of that VM",
            Self::ViewForeign | Self::ManageLockspaces | Self::Reload => "call as root",
        };
        format!("{alternative}, or {AUTHORIZE}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_described_with_its_object() {
        let details = Details::from([
            ("resource", "/srv/a\n.img"),
            ("vm", "web1"),
            ("mode", "exclusive"),
            ("holder", "db1 of uid 0"),
        ]);
        for action in Action::ALL {
            let text = action.describe(&details);
            let named = match action {
                Action::OpenOwner | Action::RegisterProcess | Action::ManageForeign => {
                    text.contains("VM \"web1\"")
                }
                Action::ReleaseForeign => text == "release disk /srv/a\\n.img of VM db1 of uid 0",
                Action::Reload | Action::ViewForeign => true,
                _ => text.contains("/srv/a\\n.img"),
            };
            assert!(named, "{action:?}: {text}");
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

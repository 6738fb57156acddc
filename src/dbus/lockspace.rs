//! `org.vmlockd1.Lockspace`: a rule from resource to lock file.

use std::sync::Arc;

use zbus::message::Header;

use super::front::Front;
use super::objects;
use crate::lock::lockspace::LockspaceKind;

/// A lockspace's object.
#[derive(Debug)]
pub(super) struct LockspaceObject {
    front: Arc<Front>,
    kind: LockspaceKind,
}

impl LockspaceObject {
    /// The object of a lockspace.
    #[must_use]
    pub(super) fn new(front: Arc<Front>, kind: LockspaceKind) -> Self {
        Self { front, kind }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "zbus passes headers by value")]
#[zbus::interface(name = "org.vmlockd1.Lockspace", introspection_docs = false)]
impl LockspaceObject {
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.kind.name().into_owned()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> &'static str {
        objects::word(self.kind)
    }

    #[zbus(property)]
    fn directory(&self) -> String {
        objects::directory(&self.front, self.kind)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn self_test_result(&self) -> &'static str {
        objects::verdict(&self.front, self.kind)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn self_test_messages(&self) -> Vec<String> {
        objects::findings(&self.front, self.kind)
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NLocks")]
    fn n_locks(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        objects::locks_in(&self.front, self.kind, self.front.viewer(header.as_ref()))
    }
}

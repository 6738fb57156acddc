//! `org.vmlockd1.Lockspace`: a rule from resource to lock file.

use std::sync::Arc;

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
    fn verdict(&self) -> &'static str {
        objects::verdict(&self.front, self.kind)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn findings(&self) -> Vec<String> {
        objects::findings(&self.front, self.kind)
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NLocks")]
    fn n_locks(&self) -> u32 {
        let kind = self.kind;
        let here = self.front.service.count_locks(|lock| lock.want.lockspace == kind);
        u32::try_from(here).unwrap_or(u32::MAX)
    }
}

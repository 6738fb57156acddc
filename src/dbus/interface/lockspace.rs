//! `org.vmlockd1.Lockspace`: a rule that maps resources to lock files.

use std::sync::Arc;

use zbus::message::Header;

use super::properties;
use crate::dbus::context::Context;
use crate::lock::lockspace::LockspaceKind;

/// The object of a lockspace.
#[derive(Debug)]
pub(crate) struct LockspaceObject {
    context: Arc<Context>,
    kind: LockspaceKind,
}

impl LockspaceObject {
    /// Creates the object of a lockspace.
    #[must_use]
    pub(crate) fn new(context: Arc<Context>, kind: LockspaceKind) -> Self {
        Self { context, kind }
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
        properties::lockspace_kind(self.kind)
    }

    #[zbus(property)]
    fn directory(&self) -> String {
        properties::lockspace_directory(&self.context, self.kind)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn self_test_result(&self) -> &'static str {
        properties::self_test_result(&self.context, self.kind)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn self_test_messages(&self) -> Vec<String> {
        properties::self_test_messages(&self.context, self.kind)
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NLocks")]
    fn n_locks(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        properties::count_locks_in(&self.context, self.kind, self.context.viewer(header.as_ref()))
    }
}

//! Log messages on requests that are not authorized.

use std::fmt::Display;

use super::words::short;
use crate::catalog::LogEvent;
use crate::lock::text::escape::shown;

/// Logs that a caller of the user `uid` is not authorized for its request.
pub fn denied(uid: u32, deed: &Denied<'_>, error: impl Display) {
    // An owner that is to be opened may have no UUID yet.
    let uuid = deed.uuid.filter(|uuid| !uuid.is_empty());
    let vm = match (deed.vm, uuid) {
        (Some(name), Some(uuid)) => format!(" for VM \"{}\" ({})", shown(name), short(uuid)),
        (Some(name), None) => format!(" for VM \"{}\"", shown(name)),
        (None, Some(uuid)) => format!(" for VM {}", short(uuid)),
        (None, None) => String::new(),
    };
    tracing::info!(
        event = LogEvent::Denied.as_str(),
        caller.uid = uid,
        caller.name = deed.sender,
        method = deed.method,
        action = deed.action,
        reason = deed.why,
        resource = deed.resource,
        owner.uuid = deed.uuid,
        owner.name = deed.vm,
        "denied uid {uid}{vm}: {error}"
    );
}

/// A request for which its caller is not authorized.
#[derive(Debug, Clone, Copy, Default)]
pub struct Denied<'d> {
    /// The cause, in one word.
    pub why: &'d str,
    /// The caller's connection to the bus.
    pub sender: Option<&'d str>,
    /// The method, with its interface.
    pub method: Option<&'d str>,
    /// The action that needs authorization.
    pub action: Option<&'d str>,
    /// The resource that was requested.
    pub resource: Option<&'d str>,
    /// The UUID of the VM, if known.
    pub uuid: Option<&'d str>,
    /// The name of the VM, if known.
    pub vm: Option<&'d str>,
}

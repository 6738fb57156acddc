//! Callers in namespaces of their own: what they name, and who they are, is theirs.

pub(crate) mod host;
mod mount;
mod pids;
mod rpc;
mod scenario;
mod session;
mod user;
mod wait;

use crate::dbus_client::Refused;

/// Checks that a request was refused since its name or number is another namespace's.
#[track_caller]
fn assert_foreign(refused: &Refused, words: &str) {
    assert_eq!(refused.name, "ForeignNamespace", "{refused:?}");
    assert!(refused.message.contains(words), "{words}: {refused:?}");
}

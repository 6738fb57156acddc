//! The forms of a VM, a number of locks and the reason of a release in log messages.

use std::fmt;

use crate::lock::text::escape::shown;
use crate::lock::{OwnerId, Reason};

/// The number of digits of a UUID in a message; the fields of the entry have the whole UUID.
const DIGITS: usize = 8;

/// Returns the beginning of a UUID, or of a caller's string in its place.
pub(super) fn short(uuid: &str) -> String {
    shown(&uuid.chars().take(DIGITS).collect::<String>())
}

/// A VM in a message: `VM "web1" (4dea22b3, uid 0)`.
///
/// The user is a number: looking up its name may block.
#[derive(Debug, Clone, Copy)]
pub struct Vm<'v>(pub OwnerId, pub &'v str);

impl fmt::Display for Vm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(OwnerId { uid, uuid, process }, name) = self;
        // An owner that was removed meanwhile has no name.
        let name = if name.is_empty() { String::new() } else { format!(" \"{}\"", shown(name)) };
        write!(f, "VM{name} ({}, uid {uid}", short(&uuid.to_string()))?;
        if *process != 0 {
            write!(f, ", process {process}")?;
        }
        f.write_str(")")
    }
}

/// A number of locks in a message: `1 lock`, `2 locks`.
pub(super) struct Locks(pub(super) usize);

impl fmt::Display for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "lock" } else { "locks" })
    }
}

/// Returns the reason why an owner ended, in the form that follows a colon.
pub(super) fn because_ended(reason: Reason) -> &'static str {
    match reason {
        Reason::OwnerGone => "its last process, lifeline or connection ended",
        reason => because(reason),
    }
}

/// Returns the reason why a lock was released, in the form that follows a colon.
pub(super) fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::Released => "released on request",
        Reason::OwnerClosed => "the owner was closed",
        Reason::OwnerGone => "the owner ended",
        Reason::Suspended => "the owner was suspended",
        Reason::HandedOver => "handed over to another owner",
        Reason::Forced => "forced by another user",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_its_name_the_beginning_of_its_uuid_and_its_user() {
        let id = OwnerId::new(7, uuid::Uuid::from_u128(0x4dea_22b3 << 96));
        assert_eq!(Vm(id, "web1").to_string(), "VM \"web1\" (4dea22b3, uid 7)");
        assert_eq!(Vm(id, "").to_string(), "VM (4dea22b3, uid 7)");
        assert_eq!(Vm(id, "a\nb").to_string(), "VM \"a\\nb\" (4dea22b3, uid 7)");
        let second = OwnerId { process: 5, ..id };
        assert_eq!(Vm(second, "a").to_string(), "VM \"a\" (4dea22b3, uid 7, process 5)");
    }

    #[test]
    fn a_string_in_place_of_a_uuid_is_cut_at_a_character() {
        assert_eq!(short("4dea22b3-1d52"), "4dea22b3");
        assert_eq!(short("äöüäöüäöü"), "äöüäöüäö");
        assert_eq!(short("a\n"), "a\\n");
    }
}

//! What the service refuses or fails at, as libvirt's users know it.

use nix::errno::Errno;

use super::call::acquire;
use super::fault::{Code, Domain, Fault};
use crate::life;
use crate::lock::Error as LockError;
use crate::lock::printable::shown;
use crate::service::Error;

impl Fault {
    /// What came of an acquisition.
    pub(super) fn of_lock(error: &Error, name: &[u8], flags: u32) -> Self {
        Self::of(error, name, flags & acquire::CREATE != 0)
    }

    /// What came of something that was asked about this name; `create`: it could have been made.
    pub(super) fn of(error: &Error, name: &[u8], create: bool) -> Self {
        match error {
            Error::Held { message, refusal } => {
                Self::locked(name, Some(&holder(message, &refusal.resource)))
            }
            Error::HeldElsewhere(message) => {
                let path = super::fault::named(name);
                Self::locked(name, Some(&holder(message, &path)))
            }
            Error::Lock(error) => Self::of_file(error, name, create),
            Error::Life(life::Error::NoSuchProcess(_) | life::Error::Ended) => {
                Self::new(Code::OperationInvalid, Domain::Rpc, error.to_string())
            }
            error => Self::new(Code::Internal, Domain::Rpc, error.to_string()),
        }
    }

    fn of_file(error: &LockError, name: &[u8], create: bool) -> Self {
        match error {
            LockError::Missing(_) => Self::not_opened(name, create, Errno::ENOENT),
            LockError::System {
                doing: "opening" | "opening lock file" | "finding", errno, ..
            } => Self::not_opened(name, create, *errno),
            LockError::System { errno, .. } => Self::not_acquired(name, *errno),
            LockError::BadPath { .. } => {
                Self::new(Code::InvalidArgument, Domain::Lockspace, error.to_string())
            }
            LockError::NotLockable { why, .. } => {
                let text = format!("Unable to open resource {}: {why}", super::fault::named(name));
                Self::new(Code::System, Domain::Lockspace, text)
            }
            LockError::Lockspace { .. } => {
                Self::new(Code::System, Domain::Lockspace, error.to_string())
            }
            error => Self::new(Code::Internal, Domain::Lockspace, error.to_string()),
        }
    }

    /// What came of making or removing a lock file.
    pub(super) fn of_tending(
        error: &LockError,
        name: &[u8],
        system: fn(&[u8], Errno) -> Self,
    ) -> Self {
        match error {
            LockError::HeldElsewhere(stranger) => {
                Self::locked(name, Some(&holder(&stranger.to_string(), &stranger.resource)))
            }
            LockError::System { errno, .. } => system(name, *errno),
            error => Self::of_file(error, name, true),
        }
    }
}

/// Who holds it: what the sentence says after that it is locked.
fn holder(message: &str, resource: &str) -> String {
    let told = message.strip_prefix(&format!("disk {} is locked ", shown(resource)));
    told.map_or_else(|| format!("({message})"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_follows_the_usual_text() {
        let message = "disk /srv/a is locked exclusively by VM \"web1\" (…)".to_owned();
        let fault = Fault::of(&Error::HeldElsewhere(message.clone()), b"/srv/a", false);
        assert_eq!(
            fault.message(),
            "resource busy: Lockspace resource '/srv/a' is locked exclusively by VM \"web1\" (…)"
        );
        let fault = Fault::of(&Error::HeldElsewhere(message), b"a", false);
        assert!(
            fault.message().starts_with("resource busy: Lockspace resource 'a' is locked (disk")
        );
    }
}

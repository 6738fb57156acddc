//! What the service refuses or fails at, as libvirt's users know it.

use std::path::Path;

use nix::errno::Errno;

use super::fault::{Code, Domain, Fault, named};
use crate::life;
use crate::lock::Error as LockError;
use crate::lock::lease::{spelt, spoken};
use crate::lock::printable::shown;
use crate::service::Error;

impl Fault {
    /// What came of a question about this; `create`: its file could have been made.
    pub(super) fn of(error: &Error, what: Asked<'_>, create: bool) -> Self {
        match error {
            Error::Held { message, refusal } => {
                Self::locked(what.name, Some(&holder(message, &refusal.resource)))
            }
            Error::HeldElsewhere { message, .. } => {
                Self::locked(what.name, Some(&holder(message, &what.resource())))
            }
            Error::Lock(error) => Self::of_file(error, what, create),
            Error::Life(life::Error::NoSuchProcess(_) | life::Error::Ended)
            | Error::ForeignPid { .. } => {
                Self::new(Code::OperationInvalid, Domain::Rpc, error.to_string())
            }
            Error::ForeignName(_) => {
                Self::new(Code::OperationInvalid, Domain::Lockspace, error.to_string())
            }
            Error::Silent(_) => Self::new(Code::System, Domain::Lockspace, error.to_string()),
            error => Self::new(Code::Internal, Domain::Rpc, error.to_string()),
        }
    }

    fn of_file(error: &LockError, what: Asked<'_>, create: bool) -> Self {
        let path = what.path();
        match error {
            LockError::Missing(_) => Self::not_opened(&path, create, Errno::ENOENT),
            LockError::System { doing: "open" | "open lock file" | "find", errno, .. } => {
                Self::not_opened(&path, create, *errno)
            }
            LockError::System { errno, .. } => Self::not_acquired(&path, *errno),
            LockError::BadPath { .. } | LockError::BadKey { .. } => {
                Self::new(Code::InvalidArgument, Domain::Lockspace, error.to_string())
            }
            LockError::NotLockable { why, .. } => {
                let text = format!("Unable to open resource {}: {why}", named(&path));
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
        what: Asked<'_>,
        system: fn(&[u8], Errno) -> Self,
    ) -> Self {
        match error {
            LockError::HeldElsewhere(stranger) => {
                Self::locked(what.name, Some(&holder(&stranger.to_string(), &stranger.resource)))
            }
            LockError::System { errno, .. } => system(&what.path(), *errno),
            error => Self::of_file(error, what, true),
        }
    }

    /// Why nothing can be found in a lockspace.
    pub(super) fn of_nothing_there(error: &Error, what: Asked<'_>, create: bool) -> Self {
        match error {
            Error::Lock(LockError::System { errno, .. }) => {
                Self::not_opened(&what.path(), create, *errno)
            }
            error => Self::of(error, what, create),
        }
    }

    /// Why a lockspace can't be made.
    pub(super) fn of_lockspace(error: &Error, path: &[u8]) -> Self {
        match error {
            Error::Lock(LockError::Lockspace { why, .. }) => {
                let text = format!("Unable to create lockspace {}: {why}", named(path));
                Self::new(Code::System, Domain::Lockspace, text)
            }
            error => Self::of(error, Asked { lockspace: b"", name: path }, true),
        }
    }
}

/// What was asked about: a path, or a name in a lockspace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'c> {
    /// The directory; empty where the name is a path.
    pub(super) lockspace: &'c [u8],
    pub(super) name: &'c [u8],
}

/// Nothing that has a name.
pub(super) const NOTHING: Asked<'static> = Asked { lockspace: b"", name: b"" };

impl Asked<'_> {
    /// The path of the file.
    fn path(&self) -> Vec<u8> {
        if self.lockspace.is_empty() {
            return self.name.to_vec();
        }
        [self.lockspace, b"/", self.name].concat()
    }

    /// As the table names it.
    fn resource(&self) -> String {
        if self.lockspace.is_empty() {
            return named(self.name);
        }
        spelt(Path::new(&named(self.lockspace)), &named(self.name))
    }
}

/// Who holds it: what the sentence says after that it is locked.
fn holder(message: &str, resource: &str) -> String {
    let told = message.strip_prefix(&format!("{} is locked ", spoken(&shown(resource))));
    told.map_or_else(|| format!("({message})"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Mode;
    use crate::lock::fdinfo::Processes;
    use crate::lock::holder::{Naming, Stranger, StrangersLock};

    fn elsewhere(message: &str) -> Error {
        let stranger = Box::new(Stranger {
            resource: "/srv/a".to_owned(),
            lock_file: None,
            mode: Mode::Exclusive,
            by: StrangersLock::Byte,
            processes: Processes::default(),
            recorded: Vec::new(),
            users: Processes::default(),
            naming: Naming::Done,
        });
        Error::HeldElsewhere { message: message.to_owned(), stranger }
    }

    #[test]
    fn the_holder_follows_the_usual_text() {
        let disk = Asked { lockspace: b"", name: b"/srv/a" };
        let error = elsewhere("disk /srv/a is locked exclusively by VM \"web1\" (…)");
        let fault = Fault::of(&error, disk, false);
        assert_eq!(
            fault.message(),
            "resource busy: Lockspace resource '/srv/a' is locked exclusively by VM \"web1\" (…)"
        );
        let key = Asked { lockspace: b"/srv", name: b"a" };
        let fault = Fault::of(&error, key, false);
        assert!(
            fault.message().starts_with("resource busy: Lockspace resource 'a' is locked (disk")
        );
    }
}

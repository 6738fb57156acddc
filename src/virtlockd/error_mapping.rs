//! Converts errors of the service to the errors that libvirt's users know.

use std::path::Path;

use rustix::io::Errno;

use super::remote_error::{Code, Domain, RemoteError, shown_name};
use crate::life;
use crate::lock::Error as LockError;
use crate::lock::model::input_error::InputError;
use crate::lock::model::lease_name::{spelt, spoken};
use crate::lock::model::operation::Operation;
use crate::lock::text::escape::shown;
use crate::service::Error;

impl RemoteError {
    /// Converts the error of a request for `target`. `create` is whether its file could have been
    /// created.
    pub(super) fn from_service(error: &Error, target: Target<'_>, create: bool) -> Self {
        match error {
            Error::Held { message, refusal } => {
                Self::locked(target.name, Some(&holder(message, &refusal.resource)))
            }
            Error::HeldElsewhere { message, .. } => {
                Self::locked(target.name, Some(&holder(message, &target.resource())))
            }
            Error::Lock(error) => Self::from_lock(error, target, create),
            Error::Life(life::Error::NoSuchProcess(_) | life::Error::Ended)
            | Error::ForeignPid { .. } => {
                Self::new(Code::OperationInvalid, Domain::Rpc, error.to_string())
            }
            Error::ForeignName(_) => {
                Self::new(Code::OperationInvalid, Domain::Lockspace, error.to_string())
            }
            Error::UnresponsiveMount(_) => {
                Self::new(Code::System, Domain::Lockspace, error.to_string())
            }
            error => Self::new(Code::Internal, Domain::Rpc, error.to_string()),
        }
    }

    fn from_lock(error: &LockError, target: Target<'_>, create: bool) -> Self {
        let path = target.path();
        match error {
            LockError::Missing(_) => Self::not_opened(&path, create, Errno::NOENT),
            LockError::System {
                operation: Operation::Open | Operation::OpenLockFile | Operation::Find,
                errno,
                ..
            } => Self::not_opened(&path, create, *errno),
            LockError::System { errno, .. } => Self::not_acquired(&path, *errno),
            LockError::Input(InputError::BadPath { .. } | InputError::BadKey { .. }) => {
                Self::new(Code::InvalidArgument, Domain::Lockspace, error.to_string())
            }
            LockError::NotLockable { why, .. } => {
                let text = format!("Unable to open resource {}: {why}", shown_name(&path));
                Self::new(Code::System, Domain::Lockspace, text)
            }
            LockError::Lockspace { .. } => {
                Self::new(Code::System, Domain::Lockspace, error.to_string())
            }
            error => Self::new(Code::Internal, Domain::Lockspace, error.to_string()),
        }
    }

    /// Converts the error of creating or deleting a lock file. `system` converts an error of a system
    /// call.
    pub(super) fn from_lock_file_error(
        error: &LockError,
        target: Target<'_>,
        system: fn(&[u8], Errno) -> Self,
    ) -> Self {
        match error {
            LockError::HeldElsewhere(foreign) => {
                Self::locked(target.name, Some(&holder(&foreign.to_string(), &foreign.resource)))
            }
            LockError::System { errno, .. } => system(&target.path(), *errno),
            error => Self::from_lock(error, target, true),
        }
    }

    /// Converts the error of resolving a key.
    pub(super) fn from_key_error(error: &Error, target: Target<'_>, create: bool) -> Self {
        match error {
            Error::Lock(LockError::System { errno, .. }) => {
                Self::not_opened(&target.path(), create, *errno)
            }
            error => Self::from_service(error, target, create),
        }
    }

    /// Converts the error of creating a lockspace.
    pub(super) fn from_lockspace_error(error: &Error, path: &[u8]) -> Self {
        match error {
            Error::Lock(LockError::Lockspace { why, .. }) => {
                let text = format!("Unable to create lockspace {}: {why}", shown_name(path));
                Self::new(Code::System, Domain::Lockspace, text)
            }
            error => Self::from_service(error, Target { lockspace: b"", name: path }, true),
        }
    }
}

/// The resource of a call: a path, or a name in a lockspace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'c> {
    /// The directory of the lockspace; empty if `name` is a path.
    pub(super) lockspace: &'c [u8],
    pub(super) name: &'c [u8],
}

/// The target of a call that has none.
pub(super) const NO_TARGET: Target<'static> = Target { lockspace: b"", name: b"" };

impl Target<'_> {
    /// Returns the path of the file.
    fn path(&self) -> Vec<u8> {
        if self.lockspace.is_empty() {
            return self.name.to_vec();
        }
        [self.lockspace, b"/", self.name].concat()
    }

    /// Returns the name of the resource in the table.
    fn resource(&self) -> String {
        if self.lockspace.is_empty() {
            return shown_name(self.name);
        }
        spelt(Path::new(&shown_name(self.lockspace)), &shown_name(self.name))
    }
}

/// Returns the holder from a message of the service: the part after "is locked".
fn holder(message: &str, resource: &str) -> String {
    let holder = message.strip_prefix(&format!("{} is locked ", spoken(&shown(resource))));
    holder.map_or_else(|| format!("({message})"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Mode;
    use crate::lock::model::process_search::ForeignLock;
    use crate::lock::model::process_search::Processes;
    use crate::lock::model::refusal::{ForeignHolder, Naming};

    fn held_elsewhere(message: &str) -> Error {
        let foreign = Box::new(ForeignHolder {
            resource: "/srv/a".to_owned(),
            lock_file: None,
            mode: Mode::Exclusive,
            by: ForeignLock::Byte,
            processes: Processes::default(),
            recorded: Vec::new(),
            users: Processes::default(),
            naming: Naming::Done,
        });
        Error::HeldElsewhere { message: message.to_owned(), foreign }
    }

    #[test]
    fn the_holder_follows_virtlockds_text() {
        let disk = Target { lockspace: b"", name: b"/srv/a" };
        let error = held_elsewhere("disk /srv/a is locked exclusively by VM \"web1\" (…)");
        let converted = RemoteError::from_service(&error, disk, false);
        assert_eq!(
            converted.message(),
            "resource busy: Lockspace resource '/srv/a' is locked exclusively by VM \"web1\" (…)"
        );
        let key = Target { lockspace: b"/srv", name: b"a" };
        let converted = RemoteError::from_service(&error, key, false);
        assert!(
            converted
                .message()
                .starts_with("resource busy: Lockspace resource 'a' is locked (disk")
        );
    }
}

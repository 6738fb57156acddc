//! An owner with its disks: what `run` and `lock` begin with.

use std::os::fd::{AsFd, OwnedFd};

use zbus::{Fd, OwnedObjectPath, Variant};

use super::disks::Wanted;
use super::error::Error;
use super::link::Link;
use crate::client::Options;
use crate::lock::owner::NAME_MAX;
use crate::lock::printable::shown;

/// What an owner is opened with.
#[derive(Debug)]
pub(super) struct Opening<'o> {
    /// What people call it.
    pub(super) name: &'o str,
    /// Its UUID; empty: the service makes one.
    pub(super) uuid: &'o str,
    /// Whether it stays until it is closed.
    pub(super) manual: bool,
}

/// An owner that holds its disks.
#[derive(Debug)]
pub(super) struct Opened {
    /// Where it is.
    pub(super) path: OwnedObjectPath,
    /// Keeps it alive, unless it stays anyway.
    pub(super) lease: OwnedFd,
}

impl Opening<'_> {
    /// Opens the owner and locks the disks: all of it or nothing.
    pub(super) async fn open(&self, link: &Link, wanted: &Wanted) -> Result<Opened, Error> {
        let names: Vec<(&str, &str)> =
            wanted.names.iter().map(|(name, mode)| (name.as_str(), *mode)).collect();
        let by_name_only = wanted.files.is_empty();
        let mut options = Options::new();
        if self.manual {
            options.insert("manual", true.into());
        }
        if by_name_only {
            options.insert("resources", Variant::from(names.as_slice()));
        }
        let manager = link.manager().await?;
        let arguments = (self.uuid, self.name, options);
        let (path, lease): (OwnedObjectPath, zbus::OwnedFd) =
            link.ask(manager.inner(), "OpenOwner", &arguments).await?;
        let opened = Opened { path, lease: lease.into() };
        if by_name_only {
            return Ok(opened);
        }
        let files: Vec<(Fd<'_>, &str)> =
            wanted.files.iter().map(|(file, mode)| (file.as_fd().into(), *mode)).collect();
        let owner = link.owner(&opened.path).await?;
        let arguments = (names, files, Options::new());
        let locked: Result<Vec<OwnedObjectPath>, _> =
            link.ask(owner.inner(), "AcquireWithFiles", &arguments).await;
        match locked {
            Ok(_) => Ok(opened),
            Err(error) => {
                if self.manual {
                    // Otherwise it goes with the lease. The first error is the one to tell.
                    let _ = owner.close(Options::new()).await;
                }
                Err(error)
            }
        }
    }
}

/// The name of a machine that nobody named: one that the service takes.
pub(super) fn name_after(command: &str) -> String {
    let base = command.rsplit('/').find(|part| !part.is_empty()).unwrap_or("command");
    let mut name = String::new();
    for c in shown(base).chars() {
        if name.len() + c.len_utf8() > NAME_MAX {
            break;
        }
        name.push(c);
    }
    name
}

/// A name that the service would take, for clap.
pub(super) fn check_name(name: &str) -> Result<String, crate::lock::Error> {
    crate::lock::owner::check_name(name).map(|()| name.to_owned())
}

/// A UUID that the service would take, for clap; empty is not one here.
pub(super) fn check_uuid(uuid: &str) -> Result<String, crate::lock::Error> {
    if uuid.is_empty() {
        return Err(crate::lock::Error::BadUuid(String::new()));
    }
    crate::lock::owner::parse_uuid(uuid).map(|uuid| uuid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_after_commands_are_taken() {
        assert_eq!(name_after("/usr/bin/qemu-system-x86_64"), "qemu-system-x86_64");
        assert_eq!(name_after("./start/"), "start");
        assert_eq!(name_after("a\nb"), "a\\nb");
        for odd in ["", "/", &"ä".repeat(100), "\u{1b}"] {
            check_name(&name_after(odd)).unwrap();
        }
        assert!(check_uuid("").is_err() && check_uuid("web1").is_err());
    }
}

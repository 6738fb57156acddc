//! The owners that a lock daemon knows, and their locks.

use std::path::Path;

use serde_json::Value;

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::Guest;
use super::hashed::LOCKSPACE;
use super::hypervisor::Hypervisor;
use crate::fixture::within;

impl Hypervisor {
    /// A guest holds locks on these files of the host, and no others.
    ///
    /// Where the service is the lock daemon it is asked; with virtlockd only the files can be.
    pub(super) async fn holds(&self, guest: &Guest, locks: &[(&Path, Byte)]) {
        for (path, byte) in locks {
            assert_eq!(self.byte(path), *byte, "{}", path.display());
        }
        if self.daemon == LockDaemon::Virtlockd {
            return;
        }
        let owner = self.owner(guest).await.unwrap_or_else(|| panic!("{} is no owner", guest.name));
        assert_eq!(owner["name"], guest.name);
        assert_eq!(owner["frontend"], "virtlockd");
        assert_eq!(owner["uid"], 0);
        assert_eq!(owner["pid"], self.pid(guest));
        let mut found = Vec::new();
        for lock in rows(self.host.json(&["vmlockctl", "--json", "list"]).await) {
            if lock["uuid"] == *guest.uuid {
                let word = |key: &str| lock[key].as_str().unwrap().to_owned();
                found.push([word("lock-file"), word("resource"), word("mode")]);
            }
        }
        let mut wanted: Vec<_> = locks.iter().map(|(path, byte)| known(path, *byte)).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{}", guest.name);
    }

    /// The service's owner that a guest is.
    pub(super) async fn owner(&self, guest: &Guest) -> Option<Value> {
        let owners = rows(self.host.json(&["vmlockctl", "--json", "owners"]).await);
        let mut owners = owners.into_iter().filter(|owner| owner["uuid"] == *guest.uuid);
        let owner = owners.next();
        assert!(owners.next().is_none(), "{} is there twice", guest.name);
        owner
    }

    /// Waits until the lock daemon knows of no guest any more.
    pub(super) async fn wait_until_no_owners(&self) {
        if self.daemon == LockDaemon::Virtlockd {
            return;
        }
        let asking = async {
            loop {
                if rows(self.host.json(&["vmlockctl", "--json", "owners"]).await).is_empty() {
                    return;
                }
            }
        };
        within("no owner is left", asking).await;
        assert_eq!(rows(self.host.json(&["vmlockctl", "--json", "list"]).await).len(), 0);
    }
}

/// A lock as the service lists it.
fn known(path: &Path, byte: Byte) -> [String; 3] {
    let mode = match byte {
        Byte::Free => panic!("{} can't be held and free", path.display()),
        Byte::Shared => "shared",
        Byte::Exclusive => "exclusive",
    };
    let file = path.to_str().unwrap();
    // In a lockspace libvirt names no disk, only the lock file.
    let lease = if path.starts_with(LOCKSPACE) { "lease:" } else { "" };
    [file.to_owned(), format!("{lease}{file}"), mode.to_owned()]
}

fn rows(list: Value) -> Vec<Value> {
    match list {
        Value::Array(rows) => rows,
        other => panic!("no list, but {other}"),
    }
}

//! Disks that damaged lock records name: locked again as *suspect*.
//!
//! Where no descriptors were kept, a lock is acquired again from its record. A record that is damaged
//! does not say for certain whose lock it was, but it may still name the disk, and the VM may be
//! writing there. So the disk is locked for an owner named `suspect`, which only an administrator
//! closes. A disk that another program has locked meanwhile, or that is not found, is reported as lost.
//! Only regular files and block devices are locked, and none is created.

use std::os::unix::ffi::OsStrExt as _;

use uuid::Uuid;

use super::ask::{Ask, Disk};
use super::verify::Found;
use super::{Error, Service};
use crate::keep::suspect::Suspect;
use crate::lock::in_use::InUse;
use crate::lock::naming::Naming;
use crate::lock::open::Links;
use crate::lock::printable::spelt_path;
use crate::lock::resolve::{Resolve, Wanted};
use crate::lock::resource::DiskPath;
use crate::lock::{self, OwnerId, Proof, Reason};

/// The owner of these locks: always the same, so that it can be looked for.
pub(super) const SUSPECT: OwnerId = OwnerId::new(0, Uuid::from_bytes(*b"vmlockd:suspect\0"));
/// Its name.
pub(super) const SUSPECT_NAME: &str = "suspect";
/// How many of them are locked at a time: one that hangs holds up few others.
const AT_ONCE: usize = 8;

impl Service {
    /// Locks the disks that damaged records name; each with the number of the lock that was entered for
    /// it, if one was. Returns at once.
    pub(super) fn lock_suspects(&self, suspects: Vec<(Suspect, Option<u64>)>) {
        if suspects.is_empty() {
            return;
        }
        let service = self.clone();
        tokio::spawn(async move {
            for some in suspects.chunks(AT_ONCE) {
                let tasks: Vec<_> = some
                    .iter()
                    .map(|(suspect, number)| {
                        let (service, suspect, number) =
                            (service.clone(), suspect.clone(), *number);
                        tokio::spawn(async move { service.lock_suspect(&suspect, number).await })
                    })
                    .collect();
                for task in tasks {
                    // It reports by itself what went wrong.
                    let _ = task.await;
                }
            }
            service.close_suspect_if_empty().await;
        });
    }

    async fn lock_suspect(&self, suspect: &Suspect, number: Option<u64>) {
        let path = spelt_path(&suspect.path);
        if let Some(number) = number {
            let found = self.verify(number).await;
            let is_there = self.lock(number).is_some_and(|lock| lock.proof == Proof::Verified);
            if found == Found::There && is_there {
                report_locked(&path, number);
                return;
            }
        }
        // The identity may be what is damaged.
        match self.acquire_suspect(suspect).await {
            Ok(Some(number)) => report_locked(&path, number),
            // It is the lock that was just found to be lost, which is reported.
            Ok(None) => {}
            Err(error) => {
                self.counts().lost();
                tracing::error!(
                    "lost: a damaged lock record names {path}, which cannot be locked again: {error}"
                );
            }
        }
    }

    /// Acquires the disk by its name; `None`: the owner has a lock on it.
    async fn acquire_suspect(&self, suspect: &Suspect) -> Result<Option<u64>, Error> {
        let path = DiskPath::from_bytes(suspect.path.as_os_str().as_bytes())?;
        let naming = Naming::Rules(self.settings().lockspaces);
        let resolve = Resolve { wanted: Wanted::Path(path), naming, links: Links::Follow };
        let (mode, in_use) = (suspect.mode, InUse::Allowed);
        let (disk, named_by) = (Disk::Wanted(resolve), None);
        let ask = Ask { disk, mode, with_lease: false, in_use, named_by };
        let granted = self.acquire(SUSPECT, vec![ask], None).await?;
        Ok(granted.fresh.first().copied())
    }

    /// Closes the owner where nothing could be locked.
    async fn close_suspect_if_empty(&self) {
        let ended = self.end(SUSPECT, Reason::OwnerClosed, |state| {
            let owner = state.table.living(SUSPECT)?;
            let empty = owner.locks.is_empty();
            empty.then_some(()).ok_or(lock::Error::OwnerExists(SUSPECT).into())
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "the owner of suspect locks stays");
        }
    }
}

fn report_locked(path: &str, number: u64) {
    tracing::warn!(
        lock = number,
        "a damaged lock record names {path}: it is locked again as suspect, until an administrator \
         releases it ('vmlockctl release {number}')"
    );
}

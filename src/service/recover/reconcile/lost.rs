//! Finds anchors whose descriptors are lost among the running processes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;

use super::Reconciliation;
use crate::inspector::{Requester, timeouts};
use crate::keep::{AnchorIdentity, AnchorRecord, KeyPart};
use crate::life::process::ProcessKey;
use crate::life::{self, Process};
use crate::lock::{Anchor, OwnerId};
use crate::service::core::error::Error;

impl Reconciliation {
    /// Searches the open files of all processes for the lifelines whose stashed ends are missing.
    ///
    /// # Errors
    ///
    /// [`Error::Inspector`]: a VM whose lifeline was not found may be alive.
    pub(super) fn missing_lifelines(
        &self,
        anchors: &BTreeMap<OwnerId, Vec<AnchorRecord>>,
    ) -> Result<HashMap<u64, OwnedFd>, Error> {
        let has_stash: HashSet<KeyPart> = self.fds.keys().map(|key| key.part).collect();
        let missing = |anchor: &&AnchorRecord| {
            anchor.anchor() == Some(Anchor::Lifeline)
                && anchor.identity().inode != 0
                && !has_stash.contains(&KeyPart::Anchor(anchor.number()))
        };
        let all = anchors.values().flatten().filter(missing);
        let inodes: Vec<u64> = all.map(|anchor| anchor.identity().inode).collect();
        if inodes.is_empty() {
            return Ok(HashMap::new());
        }
        self.inspector.open_pipes(&inodes).map_err(Error::Inspector)
    }

    /// Finds a process by the data in its record.
    pub(super) fn find_process(
        &self,
        pid: u32,
        sign: AnchorIdentity,
    ) -> Result<Process, life::Error> {
        let key = ProcessKey { start: sign.start, inode: sign.inode };
        Process::find(pid, key, |pid| {
            let found = self.inspector.identify(Requester::Service, vec![pid], timeouts::query());
            Some(found.ok()?.first().copied()??.start)
        })
    }
}

//! Disks that damaged lock records name.

use std::collections::HashSet;
use std::path::PathBuf;

use super::Finding;
use crate::keep::line::Step;
use crate::keep::suspect::Suspect;
use crate::lock::identity::Identity;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::printable::spelt_path;
use crate::lock::record::{Proof, Stage, Want};
use crate::lock::{Lock, Mode};
use crate::service::keeping::lock_line;
use crate::service::suspects::{SUSPECT, SUSPECT_NAME};
use crate::service::{Error, now};

impl Finding {
    /// Enters the disks that damaged records name, as locks of the owner `suspect`, unless their
    /// descriptors are kept: these tell more, and are recovered already. A disk of which not even the
    /// identity is known is locked once the service serves.
    pub(super) fn enter_suspects(&mut self, suspects: Vec<Suspect>) -> Result<(), Error> {
        let mut named: HashSet<(PathBuf, Mode)> = HashSet::new();
        for suspect in suspects {
            let is_kept = match suspect.number {
                Some(number) => self.bytes.contains(&number),
                None => !self.bytes.is_empty(),
            };
            if is_kept || !named.insert((suspect.path.clone(), suspect.mode)) {
                continue;
            }
            if self.state.table.owner(SUSPECT).is_none() {
                self.open_manual(SUSPECT, SUSPECT_NAME)?;
            }
            let number = suspect.identity.and_then(|known| self.enter_suspect(&suspect, known));
            self.suspects.push((suspect, number));
        }
        Ok(())
    }

    /// Enters one as a lock that is still to be acquired again; returns its number.
    fn enter_suspect(&mut self, suspect: &Suspect, identity: Identity) -> Option<u64> {
        if matches!(identity, Identity::Key { .. }) {
            return None;
        }
        let want = Want {
            resource: spelt_path(&suspect.path),
            canonical: None,
            path: Some(suspect.path.clone()),
            identity,
            below: Vec::new(),
            copies: Vec::new(),
            lockspace: LockspaceKind::Direct,
            lock_files: vec![suspect.path.clone()],
            fleeting: false,
            mode: suspect.mode,
            write_shown: false,
        };
        let id = self.state.table.next_number();
        let (owner, stage, proof) = (SUSPECT, Stage::Held, Proof::Unverified);
        let lock = Lock { id, owner, since: now(), stage, proof, want };
        let line = lock_line(&lock, Step::Held);
        if let Err(error) = self.state.table.restore(lock) {
            tracing::error!(%error, "a damaged record names a disk that another owner holds");
            return None;
        }
        self.lines.push(line);
        Some(id)
    }
}

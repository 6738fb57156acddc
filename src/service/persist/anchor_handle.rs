//! Anchors with their descriptors.

use std::sync::Arc;

use crate::keep::{AnchorIdentity, AnchorRecord, SharedFd, StateEntry};
use crate::life::{Connection, Lifeline, Process};
use crate::lock::model::owner::AnchorId;
use crate::lock::{Anchor, OwnerId};
use crate::service::core::error::Error;
use crate::service::persist::entries::anchor_entry;

/// An anchor with its descriptor.
#[derive(Debug, Clone)]
pub(in crate::service) enum AnchorHandle {
    Lifeline(Arc<Lifeline>),
    Process(Arc<Process>),
    Connection(Arc<Connection>),
}

impl AnchorHandle {
    pub(in crate::service) fn anchor(&self) -> Anchor {
        match self {
            Self::Lifeline(_) => Anchor::Lifeline,
            Self::Process(process) => Anchor::Process { pid: process.pid() },
            Self::Connection(_) => Anchor::Connection,
        }
    }

    /// Returns its descriptor, to be stashed.
    pub(in crate::service) fn descriptor(&self) -> SharedFd {
        match self {
            Self::Lifeline(lifeline) => Arc::clone(lifeline) as SharedFd,
            Self::Process(process) => Arc::clone(process) as SharedFd,
            Self::Connection(connection) => Arc::clone(connection) as SharedFd,
        }
    }

    /// Returns the data by which the anchor is found again if its descriptor is lost.
    fn anchor_identity(&self) -> Result<AnchorIdentity, Error> {
        Ok(match self {
            Self::Lifeline(lifeline) => AnchorIdentity { inode: lifeline.inode()?, start: 0 },
            Self::Process(process) => {
                let key = process.key()?;
                AnchorIdentity { inode: key.inode, start: key.start }
            }
            // The peer of a socket cannot be found without the descriptor.
            Self::Connection(_) => AnchorIdentity::default(),
        })
    }

    /// Returns its entry in the state file.
    pub(in crate::service) fn entry(
        &self,
        owner: OwnerId,
        number: AnchorId,
    ) -> Result<StateEntry, Error> {
        let permitted = matches!(self, Self::Process(process) if process.is_permitted());
        let record = AnchorRecord::new(owner, number, self.anchor(), self.anchor_identity()?);
        Ok(anchor_entry(record.permitted(permitted)))
    }
}

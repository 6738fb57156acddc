//! The part of an owner that the table does not hold: its command lock and its watched anchors.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use tokio::task::AbortHandle;

use crate::life::Connection;
use crate::lock::model::owner::AnchorId;
use crate::lock::{self, OwnerId};
use crate::service::core::error::Error;
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::state::{SharedState, State};

/// The part of an owner that the table does not hold.
#[derive(Debug, Default)]
pub(in crate::service) struct OwnerState {
    /// The owner command lock, which is held during each of the owner's commands.
    pub(in crate::service) command_lock: Arc<tokio::sync::Mutex<()>>,
    /// Its watched anchors; manual anchors need no watch.
    pub(in crate::service) watches: HashMap<AnchorId, AnchorWatch>,
    /// The number of its record.
    pub(in crate::service) record: AnchorId,
}

/// A watched anchor.
#[derive(Debug)]
pub(in crate::service) struct AnchorWatch {
    pub(in crate::service) handle: AnchorHandle,
    /// The task that waits for the anchor's end; `None` if the end is reported in another way.
    pub(in crate::service) task: Option<AbortHandle>,
}

impl AnchorWatch {
    /// Stops watching the anchor.
    pub(in crate::service) fn stop(&self) {
        self.task.as_ref().inspect(|task| task.abort());
    }

    /// Returns the connection, if the anchor is one.
    pub(in crate::service) fn connection(&self) -> Option<Arc<Connection>> {
        match &self.handle {
            AnchorHandle::Connection(connection) => Some(Arc::clone(connection)),
            AnchorHandle::Lifeline(_) | AnchorHandle::Process(_) => None,
        }
    }
}

impl Drop for OwnerState {
    fn drop(&mut self) {
        self.watches.values().for_each(AnchorWatch::stop);
    }
}

impl State {
    /// Returns an owner's command lock, which is held during each of its commands.
    pub(in crate::service) fn command_lock(
        &self,
        id: OwnerId,
    ) -> Result<Arc<tokio::sync::Mutex<()>>, Error> {
        self.table.living(id)?;
        let owner = self.owners.get(&id).ok_or(lock::Error::NoSuchOwner(id))?;
        Ok(Arc::clone(&owner.command_lock))
    }
}

impl SharedState {
    /// Acquires an owner's command lock.
    pub(in crate::service) async fn lock_commands(
        &self,
        id: OwnerId,
    ) -> Result<OwnedMutexGuard<()>, Error> {
        let command_lock = self.lock().command_lock(id)?;
        Ok(command_lock.lock_owned().await)
    }

    /// Acquires an owner's command lock; blocks the calling thread.
    pub(in crate::service) fn lock_commands_here(
        &self,
        id: OwnerId,
    ) -> Result<OwnedMutexGuard<()>, Error> {
        let command_lock = self.lock().command_lock(id)?;
        let acquired = Arc::clone(&command_lock).try_lock_owned();
        Ok(acquired.unwrap_or_else(|_| command_lock.blocking_lock_owned()))
    }
}

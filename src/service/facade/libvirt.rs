//! Commands of clients of virtlockd's protocol. They block.

use std::sync::Arc;

use crate::life::Connection;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::owner::AnchorId;
use crate::lock::{Lock, OwnerId};
use crate::service::core::error::Error;
use crate::service::facade::Service;
use crate::service::lock::request::LockRequest;
use crate::service::lock::{counted, end};
use crate::service::owner::connection;
use crate::service::owner::register::{self, Machine};
use crate::service::state::events::Publication;

impl Service {
    /// Returns the owner of a VM's process; opens one if there is none.
    ///
    /// # Errors
    ///
    /// [`crate::life::Error::NoSuchProcess`], and the errors of [`Self::open`].
    pub fn register(&self, machine: &Machine) -> Result<OwnerId, Error> {
        register::register(&self.0, machine)
    }

    /// Returns the owner of a VM's process, if there is one.
    #[must_use]
    pub fn registered(&self, machine: &Machine) -> Option<OwnerId> {
        register::registered(&self.0, machine)
    }

    /// Adds an owner's own connection as an anchor, for as long as the connection is open.
    ///
    /// # Errors
    ///
    /// [`crate::lock::Error::NoSuchOwner`].
    pub fn connect(&self, id: OwnerId, connection: &Arc<Connection>) -> Result<AnchorId, Error> {
        connection::connect(&self.0, id, connection)
    }

    /// Stashes a connection on which no more messages are expected; call [`Self::answered`] once
    /// the peer has got its reply.
    ///
    /// # Errors
    ///
    /// [`Error::Keep`]: the connection then ends with this instance of the service.
    pub fn keep_connection(
        &self,
        id: OwnerId,
        number: AnchorId,
        connection: &Arc<Connection>,
    ) -> Result<(), Error> {
        connection::keep_connection(&self.0, id, number, connection)
    }

    /// Marks a stashed connection as permanent: its peer waits for no reply, so it may outlive the
    /// service.
    ///
    /// # Errors
    ///
    /// [`Error::Keep`].
    pub fn answered(&self, number: AnchorId) -> Result<(), Error> {
        connection::answered(&self.0, number)
    }

    /// Removes a connection from the stash, since a message has arrived on it. It remains an
    /// anchor.
    pub fn drop_connection(&self, id: OwnerId, number: AnchorId) {
        connection::drop_connection(&self.0, id, number);
    }

    /// Handles the end of a connection.
    pub fn disconnected(&self, id: OwnerId, number: AnchorId) {
        connection::disconnected(&self.0, id, number);
    }

    /// Acquires one lock, which conflicts with the owner's own locks as with the locks of other
    /// owners. The result is logged when the answer is dropped.
    ///
    /// # Errors
    ///
    /// As for [`Self::acquire`].
    pub fn acquire_counted(&self, id: OwnerId, request: LockRequest) -> Result<Publication, Error> {
        counted::acquire(&self.0, id, request)
    }

    /// Releases the newest lock of an owner on a resource, and reserves the resource for the owner
    /// for the grace period. Returns `None` if the owner has no such lock.
    ///
    /// # Errors
    ///
    /// [`crate::lock::Error::NoSuchOwner`].
    pub fn release_named(
        &self,
        id: OwnerId,
        lockspace: LockspaceKind,
        resource: &str,
    ) -> Result<Option<Publication>, Error> {
        counted::release(&self.0, id, lockspace, resource)
    }

    /// Ends an owner without any client, if it holds no lock, no lock is reserved for it, and it
    /// has no connection of its own: its process may be no VM at all.
    pub fn leave(&self, id: OwnerId) {
        end::end_if_idle(&self.0, id);
    }

    /// Returns a lock of any owner on a resource.
    #[must_use]
    pub fn lock_named(&self, lockspace: LockspaceKind, resource: &str) -> Option<Lock> {
        self.0.state().table.all_named(lockspace, resource).next().cloned()
    }
}

//! The state that all D-Bus objects share.

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use zbus::DynamicType;
use zbus::message::Header;

use super::error::Error;
use super::reply::large::{LargeReplies, Reply};
use crate::auth::authorizer::Authorizer;
use crate::auth::caller::Caller;
use crate::lock::{Owner, OwnerId};
use crate::privacy::Viewer;
use crate::service::Service;

/// The channel for the result of a [`ControlRequest`].
pub type ControlReply = oneshot::Sender<Result<(), String>>;

/// A request that concerns the process of the service.
#[derive(Debug)]
pub enum ControlRequest {
    /// Reload the configuration.
    Reload(ControlReply),
    /// Re-execute the service from the installed binary. The reply is sent once that binary has
    /// passed its checks, and before it is executed.
    Reexecute(ControlReply),
}

/// The shared state.
#[derive(Debug)]
pub(super) struct Context {
    /// The service.
    pub(super) service: Service,
    /// The authorizer of all calls.
    pub(super) auth: Authorizer,
    /// The queue of requests to the process.
    pub(super) control: mpsc::Sender<ControlRequest>,
    /// The large replies in progress.
    pub(super) replies: LargeReplies,
}

impl Context {
    /// Returns what the sender of a message may see. A message of the service itself, which has no
    /// header, may contain everything.
    #[must_use]
    pub(super) fn viewer(&self, header: Option<&Header<'_>>) -> Viewer {
        let Some(header) = header else { return Viewer::ALL };
        // The bus sets the sender of each message.
        let sender = header.sender().map_or("", |sender| sender.as_str());
        self.auth.privacy.viewer(sender)
    }

    /// Returns an owner that exists.
    ///
    /// # Errors
    ///
    /// `NoSuchOwner`.
    pub(super) fn owner(&self, id: OwnerId) -> Result<Owner, Error> {
        let owner = self.service.owner(id);
        owner.ok_or_else(|| crate::lock::Error::NoSuchOwner(id).into())
    }

    /// Builds a large reply: `collect` copies rows from the lock table, and `encode` makes the body
    /// of the reply from them.
    pub(super) async fn large_reply<T, B>(
        &self,
        caller: &Caller,
        header: &Header<'_>,
        collect: impl FnOnce() -> Result<T, Error> + Send + 'static,
        encode: impl FnOnce(T) -> Result<B, Error> + Send + 'static,
    ) -> Reply
    where
        T: Send + 'static,
        B: Serialize + DynamicType,
    {
        // By the time that the caller reads of an object, the object must be on the bus.
        let publish = || self.service.all_shown();
        self.replies.build((&self.auth, caller, header), collect, publish, encode).await
    }

    /// Sends a request to the process, and waits for its result.
    ///
    /// # Errors
    ///
    /// `Failed` with the reason.
    pub(super) async fn control(
        &self,
        request: impl FnOnce(ControlReply) -> ControlRequest,
    ) -> Result<(), Error> {
        let (reply, result) = oneshot::channel();
        let ending = || Error::failed("vmlockd is shutting down");
        self.control.send(request(reply)).await.map_err(|_| ending())?;
        result.await.map_err(|_| ending())?.map_err(Error::failed)
    }
}

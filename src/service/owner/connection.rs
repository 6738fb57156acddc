//! Connections that keep owners alive: a VM of libvirt inherits its own.

use std::sync::Arc;

use crate::life::Connection;
use crate::lock::model::owner::AnchorId;
use crate::lock::request::Work as _;
use crate::lock::{Anchor, Event, OwnerId};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::lock::owner_records;
use crate::service::owner::anchors::{self, AnchorEnd};
use crate::service::persist::anchor_handle::AnchorHandle;

/// Adds an owner's own connection as an anchor, for as long as the connection is open.
pub(in crate::service) fn connect(
    components: &Arc<Components>,
    id: OwnerId,
    connection: &Arc<Connection>,
) -> Result<AnchorId, Error> {
    let handle = AnchorHandle::Connection(Arc::clone(connection));
    let number = anchors::watch(components, id, Anchor::Connection, Some(handle))?;
    drop(components.state().events.publish(vec![Event::AnchorsChanged(id)]));
    Ok(number)
}

/// Stashes a connection on which no more messages are expected; call [`answered`] once
/// the peer has got its reply.
pub(in crate::service) fn keep_connection(
    components: &Components,
    id: OwnerId,
    number: AnchorId,
    connection: &Arc<Connection>,
) -> Result<(), Error> {
    let kept = components.journal.begin_connection(id, number, connection);
    if kept.is_err() {
        drop_connection(components, id, number);
    }
    kept
}

/// Marks a stashed connection as permanent: its peer waits for no reply, so it may outlive the
/// service.
pub(in crate::service) fn answered(components: &Components, number: AnchorId) -> Result<(), Error> {
    components.journal.commit_connection(number)
}

/// Removes a connection from the stash, since a message has arrived on it. It remains an
/// anchor.
pub(in crate::service) fn drop_connection(components: &Components, id: OwnerId, number: AnchorId) {
    owner_records::remove_anchor(&components.journal, id, number);
}

/// Handles the end of a connection.
pub(in crate::service) fn disconnected(
    components: &Arc<Components>,
    id: OwnerId,
    number: AnchorId,
) {
    AnchorEnd { components: Arc::clone(components), id, number }.perform();
}

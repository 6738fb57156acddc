//! Queries to the message bus about its connections, each with a deadline and with retries.
//!
//! While the queue of messages to the service is full, dbus-daemon drops replies to the service's
//! own calls, and the signal that a connection has ended, without an error. Therefore each query is
//! retried with backoff, and callers are reconciled with the list of connections, to find those
//! whose end was missed.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use zbus::fdo::{ConnectionCredentials, DBusProxy};
use zbus::names::{BusName, OwnedUniqueName};
use zbus::proxy::CacheProperties;
use zbus::{Connection, fdo};

use super::Error;

/// How long the bus may take to reply to the first query about a connection and to each retry: an
/// exponential backoff.
pub(super) const DEADLINES: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// How long the bus may take to list its connections.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval at which callers are reconciled with the connections on the bus.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(60);
/// The delay of a reconciliation after a lost reply.
const RECONCILE_DELAY: Duration = Duration::from_secs(1);

/// The message bus driver, `org.freedesktop.DBus`. A cheap handle.
#[derive(Debug, Clone)]
pub(super) struct BusDriver {
    /// Weak, to avoid a cycle: the connection owns the objects, and each object owns the authorizer
    /// and thereby this handle.
    connection: Weak<Connection>,
    /// Notified when a reply was lost.
    reply_lost: Arc<Notify>,
}

impl BusDriver {
    /// Creates a handle for the bus of this connection.
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        Self { connection: Arc::downgrade(connection), reply_lost: Arc::default() }
    }

    /// Queries the credentials of a connection once, without a retry.
    ///
    /// # Errors
    ///
    /// [`Error::CallerGone`] if the bus has no such connection; [`Error::BusTimeout`] if it does
    /// not reply within `deadline`.
    pub(super) async fn credentials_within(
        &self,
        name: &OwnedUniqueName,
        deadline: Duration,
    ) -> Result<ConnectionCredentials, Error> {
        let query = async {
            let name = BusName::Unique(name.as_ref().clone());
            self.proxy().await?.get_connection_credentials(name).await
        };
        let Ok(reply) = timeout(deadline, query).await else {
            self.reply_lost.notify_one();
            return Err(Error::BusTimeout);
        };
        reply.map_err(|_| Error::CallerGone)
    }

    /// Queries the credentials of a connection, with a retry for each of [`DEADLINES`].
    ///
    /// # Errors
    ///
    /// See [`credentials_within`](Self::credentials_within).
    pub(super) async fn credentials(
        &self,
        name: &OwnedUniqueName,
    ) -> Result<ConnectionCredentials, Error> {
        for deadline in DEADLINES {
            match self.credentials_within(name, deadline).await {
                Err(Error::BusTimeout) => {}
                reply => return reply,
            }
        }
        Err(Error::BusTimeout)
    }

    /// Lists the unique names of all connections; `None` if the bus does not reply.
    pub(super) async fn list_names(&self) -> Option<HashSet<OwnedUniqueName>> {
        let listed = async { self.proxy().await?.list_names().await };
        let names = timeout(LIST_TIMEOUT, listed).await.ok()?.ok()?;
        let unique = names.into_iter().filter_map(|name| match BusName::from(name) {
            BusName::Unique(name) => Some(name.into()),
            BusName::WellKnown(_) => None,
        });
        Some(unique.collect())
    }

    /// Waits until the next reconciliation is due: after an interval, or soon after a lost reply.
    pub(super) async fn reconciliation_due(&self) {
        tokio::select! {
            () = sleep(RECONCILE_INTERVAL) => {}
            () = self.reply_lost.notified() => sleep(RECONCILE_DELAY).await,
        }
    }

    async fn proxy(&self) -> fdo::Result<DBusProxy<'static>> {
        let disconnected = || fdo::Error::Disconnected("disconnected from the bus".to_owned());
        let connection = self.connection.upgrade().ok_or_else(disconnected)?;
        let bus = DBusProxy::builder(&connection).cache_properties(CacheProperties::No);
        Ok(bus.build().await?)
    }
}

//! Questions to the bus about its connections, each with a deadline.
//!
//! While the queue of messages for the service is full, dbus-daemon drops replies to the service's
//! own calls, and the signal that a connection has left, without an error. So each question is
//! repeated, and connections whose leaving was missed are found by the list of those that there are.

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

/// How long the bus may take for the first answer about a connection, for the second one, and so on.
pub(super) const DEADLINES: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// How long the bus may take to list its connections.
const LIST: Duration = Duration::from_secs(5);
/// How often connections are compared with those on the bus.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long after a lost reply they are compared.
const SOON: Duration = Duration::from_secs(1);

/// The bus, which is asked. A cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// Weakly: the connection has the objects, and each of those has the gate and so this.
    line: Weak<Connection>,
    /// Notified when a reply was lost.
    lost: Arc<Notify>,
}

impl Names {
    /// The bus that this connection leads to.
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        Self { line: Arc::downgrade(connection), lost: Arc::default() }
    }

    /// Asks for the credentials of a connection once.
    ///
    /// # Errors
    ///
    /// [`Error::CallerGone`] if the bus has no such connection; [`Error::Unanswered`] if it does not
    /// answer within `deadline`.
    pub(super) async fn credentials_within(
        &self,
        name: &OwnedUniqueName,
        deadline: Duration,
    ) -> Result<ConnectionCredentials, Error> {
        let asked = async {
            let asked = BusName::Unique(name.as_ref().clone());
            self.bus().await?.get_connection_credentials(asked).await
        };
        let Ok(answer) = timeout(deadline, asked).await else {
            self.lost.notify_one();
            return Err(Error::Unanswered);
        };
        answer.map_err(|_| Error::CallerGone)
    }

    /// Asks for the credentials of a connection, and again where no answer comes.
    ///
    /// # Errors
    ///
    /// Those of [`credentials_within`](Self::credentials_within).
    pub(super) async fn credentials(
        &self,
        name: &OwnedUniqueName,
    ) -> Result<ConnectionCredentials, Error> {
        for deadline in DEADLINES {
            match self.credentials_within(name, deadline).await {
                Err(Error::Unanswered) => {}
                answer => return answer,
            }
        }
        Err(Error::Unanswered)
    }

    /// Lists the unique names of all connections; `None` if the bus does not answer.
    pub(super) async fn list(&self) -> Option<HashSet<OwnedUniqueName>> {
        let listed = async { self.bus().await?.list_names().await };
        let names = timeout(LIST, listed).await.ok()?.ok()?;
        let unique = names.into_iter().filter_map(|name| match BusName::from(name) {
            BusName::Unique(name) => Some(name.into()),
            BusName::WellKnown(_) => None,
        });
        Some(unique.collect())
    }

    /// Returns when connections are to be compared with those on the bus.
    pub(super) async fn is_due(&self) {
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = self.lost.notified() => sleep(SOON).await,
        }
    }

    async fn bus(&self) -> fdo::Result<DBusProxy<'static>> {
        let disconnected = || fdo::Error::Disconnected("disconnected from the bus".to_owned());
        let connection = self.line.upgrade().ok_or_else(disconnected)?;
        let bus = DBusProxy::builder(&connection).cache_properties(CacheProperties::No);
        Ok(bus.build().await?)
    }
}

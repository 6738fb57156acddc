//! The connection to the bus, with retry after a failure.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::bus::Bus;
use crate::dbus::{self, ControlRequest, ServeError, Server};
use crate::logging::Log;
use crate::service::Service;
use crate::virtlockd::Socket;

/// The backoff between attempts to connect: the first delay, which doubles, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the start of the service waits for an optional bus.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// An attempt to connect to the bus.
type Attempt = Pin<Box<dyn Future<Output = Result<Server, ServeError>>>>;

/// Connects the service to the bus.
#[derive(Clone)]
pub(super) struct BusConnector {
    pub(super) bus: Bus,
    pub(super) service: Service,
    pub(super) log: Log,
    pub(super) wishes: mpsc::Sender<ControlRequest>,
    /// The process of the service before this one, if it was killed and may still own the bus name.
    pub(super) killed: Option<u32>,
    /// The socket by which root connects without the bus.
    pub(super) private: Option<Arc<Socket>>,
}

/// The state of the connection to the bus.
pub(super) enum BusState {
    /// The service is on the bus.
    Connected(Server),
    /// Attempts to connect are being made.
    Connecting(Pin<Box<dyn Future<Output = Server>>>),
}

impl BusConnector {
    /// Connects to the bus. If it is optional, and is down or does not respond in time, connecting goes
    /// on in the background.
    ///
    /// # Errors
    ///
    /// [`ServeError`], unless the bus is optional.
    pub(super) async fn connect(&self, is_optional: bool) -> Result<BusState, ServeError> {
        let mut attempt = self.attempt();
        let connected = if is_optional {
            let Ok(connected) = timeout(START_TIMEOUT, &mut attempt).await else {
                tracing::warn!(
                    "starting without the {} bus: it is not responding",
                    self.bus.as_str()
                );
                return Ok(self.retry(attempt));
            };
            connected
        } else {
            attempt.await
        };
        match connected {
            Ok(served) => Ok(BusState::Connected(served)),
            Err(error) if is_optional => {
                tracing::warn!("starting without the {} bus: {error}", self.bus.as_str());
                Ok(self.reconnect())
            }
            Err(error) => Err(error),
        }
    }

    /// Starts to connect to the bus again. Meanwhile all locks are kept, as their VMs keep running.
    pub(super) fn reconnect(&self) -> BusState {
        self.retry(self.attempt())
    }

    /// Logs a change, and returns the state after it.
    pub(super) fn apply(&self, change: BusChange) -> BusState {
        let bus = self.bus.as_str();
        match change {
            BusChange::Connected(served) => {
                tracing::info!("connected to the {bus} bus");
                return BusState::Connected(served);
            }
            BusChange::Disconnected => tracing::error!(
                "disconnected from the {bus} bus; all locks are kept, and vmlockd reconnects"
            ),
            BusChange::Stalled => tracing::error!(
                "disconnecting from the {bus} bus: it does not read what vmlockd sends, because \
                 clients do not read their replies; all locks are kept, and vmlockd reconnects"
            ),
        }
        self.reconnect()
    }

    fn attempt(&self) -> Attempt {
        let connector = self.clone();
        Box::pin(async move { connector.open().await })
    }

    async fn open(&self) -> Result<Server, ServeError> {
        let (wishes, killed) = (self.wishes.clone(), self.killed);
        let private = self.private.as_deref().and_then(|socket| match socket.listener() {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::error!(%error, "cannot serve the private socket");
                None
            }
        });
        dbus::serve(self.bus, &self.service, &self.log, wishes, killed, private).await
    }

    /// Retries with backoff until an attempt succeeds. The first attempt is `attempt`.
    fn retry(&self, mut attempt: Attempt) -> BusState {
        let connector = self.clone();
        BusState::Connecting(Box::pin(async move {
            let (mut delay, longest) = BACKOFF;
            loop {
                match attempt.await {
                    Ok(served) => return served,
                    Err(error) => tracing::debug!("{error}"),
                }
                sleep(delay).await;
                delay = (delay * 2).min(longest);
                attempt = connector.attempt();
            }
        }))
    }
}

/// A change of the connection to the bus.
pub(super) enum BusChange {
    /// The service is on the bus again.
    Connected(Server),
    /// The connection was lost.
    Disconnected,
    /// The connection was closed, since the bus does not read from it.
    Stalled,
}

impl BusState {
    /// Waits for the next change.
    pub(super) async fn changed(&mut self) -> BusChange {
        match self {
            Self::Connected(served) if served.closed().await => BusChange::Stalled,
            Self::Connected(_) => BusChange::Disconnected,
            Self::Connecting(retry) => BusChange::Connected(retry.await),
        }
    }
}

//! Being on the bus, and coming back to it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::bus::Bus;
use crate::dbus::{self, ServeError, Served, Wish};
use crate::logging::Log;
use crate::service::Service;
use crate::virtlockd::Socket;

/// How long to wait before a bus that went away is tried again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the start of the service waits for a bus that it can do without.
const START: Duration = Duration::from_secs(5);

/// An attempt to be on the bus.
type Opening = Pin<Box<dyn Future<Output = Result<Served, ServeError>>>>;

/// What it takes to be on the bus.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) bus: Bus,
    pub(super) service: Service,
    pub(super) log: Log,
    pub(super) wishes: mpsc::Sender<Wish>,
    /// The process of a service before this one that was killed and may still be on the bus.
    pub(super) former: Option<u32>,
    /// Where root connects without the bus.
    pub(super) private: Option<Arc<Socket>>,
}

/// Whether the bus is served.
pub(super) enum State {
    /// It is.
    Served(Served),
    /// Not now, and it is being tried.
    Away(Pin<Box<dyn Future<Output = Served>>>),
}

impl Front {
    async fn open(&self) -> Result<Served, ServeError> {
        let (wishes, former) = (self.wishes.clone(), self.former);
        let private = self.private.as_deref().and_then(|socket| match socket.listener() {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::error!(%error, "cannot serve the private socket");
                None
            }
        });
        dbus::serve(self.bus, &self.service, &self.log, wishes, former, private).await
    }

    /// Opens the front. Where that takes long, or fails, and `without` is set, the service does without
    /// a bus for now, and what was begun goes on.
    ///
    /// # Errors
    ///
    /// [`ServeError`], unless `without` is set.
    pub(super) async fn begin(&self, without: bool) -> Result<State, ServeError> {
        let mut opening = self.opening();
        let opened = if without {
            let Ok(opened) = timeout(START, &mut opening).await else {
                tracing::warn!(
                    "starting without the {} bus: it is not responding",
                    self.bus.as_str()
                );
                return Ok(self.try_with(opening));
            };
            opened
        } else {
            opening.await
        };
        match opened {
            Ok(served) => Ok(State::Served(served)),
            Err(error) if without => {
                tracing::warn!("starting without the {} bus: {error}", self.bus.as_str());
                Ok(self.try_again())
            }
            Err(error) => Err(error),
        }
    }

    /// Tries until the bus is there again. The machines that hold locks live on meanwhile, and so
    /// do their locks.
    pub(super) fn try_again(&self) -> State {
        self.try_with(self.opening())
    }

    /// The state after a change, which is logged.
    pub(super) fn follow(&self, change: Change) -> State {
        let bus = self.bus.as_str();
        match change {
            Change::Served(served) => {
                tracing::info!("connected to the {bus} bus");
                return State::Served(served);
            }
            Change::Gone => tracing::error!(
                "disconnected from the {bus} bus; all locks are kept, and vmlockd reconnects"
            ),
            Change::Stalled => tracing::error!(
                "disconnecting from the {bus} bus: it does not read what vmlockd sends, because \
                 clients do not read their replies; all locks are kept, and vmlockd reconnects"
            ),
        }
        self.try_again()
    }

    fn opening(&self) -> Opening {
        let front = self.clone();
        Box::pin(async move { front.open().await })
    }

    /// Tries, with an attempt that was begun.
    fn try_with(&self, mut opening: Opening) -> State {
        let front = self.clone();
        State::Away(Box::pin(async move {
            let (mut pause, longest) = PAUSE;
            loop {
                match opening.await {
                    Ok(served) => return served,
                    Err(error) => tracing::debug!("{error}"),
                }
                sleep(pause).await;
                pause = (pause * 2).min(longest);
                opening = front.opening();
            }
        }))
    }
}

/// How the state changes.
pub(super) enum Change {
    /// The bus is served again.
    Served(Served),
    /// It went away.
    Gone,
    /// It was left, since it had stopped reading.
    Stalled,
}

impl State {
    /// Returns when it changes.
    pub(super) async fn change(&mut self) -> Change {
        match self {
            Self::Served(served) if served.closed().await => Change::Stalled,
            Self::Served(_) => Change::Gone,
            Self::Away(trying) => Change::Served(trying.await),
        }
    }
}

//! Being on the bus, and coming back to it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::bus::Bus;
use crate::dbus::{self, ServeError, Served, Wish};
use crate::logging::Log;
use crate::service::Service;
use crate::virtlockd::Socket;

/// How long to wait before a bus that went away is tried again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

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
    Away(std::pin::Pin<Box<dyn Future<Output = Served>>>),
}

impl Front {
    pub(super) async fn open(&self) -> Result<Served, ServeError> {
        let (wishes, former) = (self.wishes.clone(), self.former);
        let private = self.private.as_deref().and_then(|socket| match socket.listener() {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::error!(%error, "the private socket is not served");
                None
            }
        });
        dbus::serve(self.bus, &self.service, &self.log, wishes, former, private).await
    }

    /// Tries until the bus is there again. The machines that hold locks live on meanwhile, and so
    /// do their locks.
    pub(super) fn try_again(&self) -> State {
        let front = self.clone();
        State::Away(Box::pin(async move {
            let (mut pause, longest) = PAUSE;
            loop {
                match front.open().await {
                    Ok(served) => return served,
                    Err(error) => tracing::debug!("{error}"),
                }
                sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        }))
    }
}

impl State {
    /// Returns where it has changed: the other state, or `None` where the bus went away.
    pub(super) async fn change(&mut self) -> Option<Self> {
        match self {
            Self::Served(served) => {
                served.closed().await;
                None
            }
            Self::Away(trying) => Some(Self::Served(trying.await)),
        }
    }
}

//! Waits for the service to return after a restart.

use std::future::pending;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{sleep, timeout};
use zbus::fdo::DBusProxy;
use zbus::names::{BusName, OwnedUniqueName};

use crate::cli::acquire::timer::WaitTimer;
use crate::cli::acquire::wait_status::{STATUS_DELAY, UPDATE_INTERVAL};
use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::format::wording::Wording;
use crate::cli::terminal::status_line::StatusLine;
use crate::client::{Options, OwnerProxy, SERVICE};

/// The time that a service that is ending has to leave the bus before the request is repeated.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns the unique name of the service on the bus; `None` if it is not running.
pub(crate) async fn service_bus_name(service: &ServiceConnection) -> Option<OwnedUniqueName> {
    let bus = DBusProxy::new(service.bus_connection().await.ok()?).await.ok()?;
    bus.get_name_owner(BusName::try_from(SERVICE).ok()?).await.ok()
}

/// Waits until the request can be repeated after an error of the service with the name `previous`.
/// Returns `false` if the wait timed out before that.
pub(crate) async fn wait_for_service(
    service: &ServiceConnection,
    owner: &OwnerProxy<'_>,
    previous: Option<OwnedUniqueName>,
    timer: WaitTimer,
    line: &mut StatusLine,
) -> Result<bool, Error> {
    let bus = DBusProxy::new(service.bus_connection().await?).await?;
    let mut changes = bus.receive_name_owner_changed_with_args(&[(0, SERVICE)]).await?;
    let returns = async {
        if previous.is_some() && service_bus_name(service).await == previous {
            // The service is about to leave, or could not be replaced and continues to run.
            let _ = timeout(LEAVE_TIMEOUT, changes.next()).await;
        }
        let mut now = service_bus_name(service).await;
        while now.is_none() {
            changes.next().await.ok_or(Error::ConnectionLost)?;
            now = service_bus_name(service).await;
        }
        if now == previous {
            // If the call timed out on the bus, the request is still waiting.
            let _ = owner.cancel(Options::new()).await;
        }
        Ok(())
    };
    let show_status = async {
        sleep(STATUS_DELAY).await;
        loop {
            let wording = Wording::new("waiting for vmlockd, which has left the bus", "", "");
            line.show(&[wording], &timer.elapsed());
            if !line.needs_update() {
                pending::<()>().await;
            }
            sleep(UPDATE_INTERVAL).await;
        }
    };
    let times_out = async {
        match timer.remaining() {
            Some(left) => sleep(left).await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        returned = returns => returned.map(|()| true),
        () = times_out => Ok(false),
        () = show_status => Ok(false),
    }
}

//! Waits for disks that other owners hold, and retries after a restart of the service.
//!
//! 1. The owner is open, and this process holds its lifeline, so the owner outlives the service. A
//!    request can therefore be repeated: the service replies with the existing locks to a request
//!    that it has granted meanwhile.
//! 2. The request waits in the service. If the service lists it as waiting, the blocking owner is
//!    shown.
//! 3. A disk that was passed as a descriptor may be replaced by another file with its name. The
//!    request is then cancelled, and the new file is requested. For names, the service does this
//!    itself.
//! 4. A service that ends or is replaced forgets its waiters. The request is repeated once a
//!    service is on the bus again, for the time that is left.
//!
//! The service cancels the waiting requests of a client that leaves the bus, so there is nothing to
//! cancel at the end.

use std::future::pending;
use std::pin::pin;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::cli::acquire::request::{DiskRequest, OpenedDisks, OpenedFile};
use crate::cli::acquire::restart::{service_bus_name, wait_for_service};
use crate::cli::acquire::timer::WaitTimer;
use crate::cli::acquire::wait_status::show_wait_status;
use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::format::duration::TimeLimit;
use crate::cli::terminal::status_line::StatusLine;
use crate::client::{Options, OwnerProxy};

/// The interval between checks whether names still lead to the files that were opened by them.
const NAME_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The maximum number of consecutive retries for a name that leads to another file by the time it
/// is locked.
const RETRIES_MAX: usize = 8;

/// Locks disks for an owner, and waits for those that other owners hold.
pub(crate) async fn lock(
    service: &ServiceConnection,
    owner: &OwnerProxy<'_>,
    request: DiskRequest<'_>,
    mut disks: OpenedDisks,
    limit: TimeLimit,
) -> Result<(), Error> {
    let timer = WaitTimer::start(limit);
    let mut line = StatusLine::new();
    let mut retries = 0;
    loop {
        let bus_name = service_bus_name(service).await;
        let asked_at = Instant::now();
        let (reply, cancelled) = attempt(service, owner, request, &disks, timer, &mut line).await;
        if asked_at.elapsed() > NAME_CHECK_INTERVAL {
            retries = 0;
        }
        match reply {
            Err(error)
                if (error.is_resource_changed() || (cancelled && error.is_cancelled()))
                    && !timer.is_over()
                    && retries < RETRIES_MAX =>
            {
                retries += 1;
                disks = request.open(service)?;
            }
            Err(error) if service.sends_descriptors_after(&error) => {
                disks = request.open(service)?;
            }
            Err(error) if error.is_service_gone() && !timer.is_over() => {
                if !wait_for_service(service, owner, bus_name, timer, &mut line).await? {
                    return Err(error);
                }
            }
            reply => return reply,
        }
    }
}

/// Sends the request once. Returns the reply, and whether the request was cancelled since the name
/// of an opened file leads to another file.
async fn attempt(
    service: &ServiceConnection,
    owner: &OwnerProxy<'_>,
    request: DiskRequest<'_>,
    disks: &OpenedDisks,
    timer: WaitTimer,
    line: &mut StatusLine,
) -> (Result<(), Error>, bool) {
    let mut reply = pin!(disks.acquire(service, owner, timer.options()));
    tokio::select! {
        reply = &mut reply => return (reply, false),
        () = file_replaced(disks) => {}
        never = show_wait_status(service, owner, request.disks, timer, line) => match never {},
    }
    // If the request was granted just before, the reply is its success.
    let _ = owner.cancel(Options::new()).await;
    (reply.await, true)
}

/// Returns when the name of an opened file leads to another file, or to none.
async fn file_replaced(disks: &OpenedDisks) {
    while !disks.opened_files().is_empty() {
        sleep(NAME_CHECK_INTERVAL).await;
        let opened = disks.opened_files().to_vec();
        let (sender, receiver) = oneshot::channel();
        // The thread is not joined: it hangs if the storage does not respond.
        let check = move || {
            let _ = sender.send(opened.iter().any(OpenedFile::is_replaced));
        };
        if thread::Builder::new().spawn(check).is_ok() && receiver.await == Ok(true) {
            return;
        }
    }
    pending::<()>().await;
}

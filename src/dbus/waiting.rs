//! Calls that wait for what others hold.

use std::time::{Duration, Instant};

use super::error::Error;
use super::facts::{self, Facts};
use super::front::Front;
use crate::auth::authorizer::Call;
use crate::lock::in_use::InUse;
use crate::lock::queue::Purpose;
use crate::lock::{Mode, OwnerId};
use crate::service::list::WaitingRow;
use crate::service::{Granted, Wait, wall_clock_of};

/// How long a call may wait for resources that others hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    /// It fails at once if a resource is not free.
    NonBlocking,
    /// It waits for at most this time.
    After(Duration),
    /// It waits without limit.
    Unlimited,
}

impl Timeout {
    /// The wait of a call, counted from now: a dialog that the caller had to answer before is not
    /// taken off.
    #[must_use]
    pub(super) fn begin(self, call: &Call<'_>) -> Option<Wait> {
        let until = match self {
            Self::NonBlocking => return None,
            Self::After(time) => Instant::now().checked_add(time),
            Self::Unlimited => None,
        };
        Some(Wait { until, caller: call.caller.presence() })
    }
}

/// Makes sure that whoever waited is there to be answered; what was given is given back otherwise.
/// The news of his leaving may be on its way, so the bus is asked.
///
/// # Errors
///
/// `WaitCancelled`.
pub(super) async fn hand_out(
    front: &Front,
    call: &Call<'_>,
    id: OwnerId,
    granted: Granted,
) -> Result<Vec<u64>, Error> {
    if is_left(front, call, &granted).await {
        let taken_back = front.service.release(id, &granted.fresh, id.uid, true).await;
        return Err(gone(taken_back));
    }
    Ok(granted.locks)
}

/// The same for an owner that was resumed: it is suspended again.
///
/// # Errors
///
/// `WaitCancelled`.
pub(super) async fn hand_out_again(
    front: &Front,
    call: &Call<'_>,
    id: OwnerId,
    granted: Granted,
) -> Result<Vec<u64>, Error> {
    if is_left(front, call, &granted).await {
        let held = granted.locks.iter().copied().collect();
        return Err(gone(front.service.suspend(id, &held, id.uid, true).await));
    }
    Ok(granted.locks)
}

/// The same for an owner that was opened.
///
/// # Errors
///
/// `WaitCancelled`.
pub(super) async fn hand_out_owner(
    front: &Front,
    call: &Call<'_>,
    id: OwnerId,
    granted: &Granted,
) -> Result<(), Error> {
    if is_left(front, call, granted).await {
        let held = granted.fresh.iter().copied().collect();
        return Err(gone(front.service.close(id, &held, id.uid, true).await));
    }
    Ok(())
}

/// The same for a lock that was strengthened.
///
/// # Errors
///
/// `WaitCancelled`.
pub(super) async fn hand_out_strength(
    front: &Front,
    call: &Call<'_>,
    lock: u64,
    granted: &Granted,
) -> Result<(), Error> {
    if is_left(front, call, granted).await {
        let weakened = front.service.convert(lock, Mode::Shared, InUse::Allowed, None).await;
        return Err(gone(weakened.map(drop)));
    }
    Ok(())
}

async fn is_left(front: &Front, call: &Call<'_>, granted: &Granted) -> bool {
    granted.waited && !front.gate.callers.confirm_connected(&call.caller).await
}

/// There is nobody to read this; what could not be undone is for the log.
fn gone(undone: Result<(), crate::service::Error>) -> Error {
    if let Err(error) = undone {
        tracing::debug!(%error, "cannot undo a request whose caller has disconnected");
    }
    crate::service::Error::CallerGone.into()
}

/// What `ListWaiting` tells of a request: one dictionary for each of its resources.
#[must_use]
pub(super) fn of_waiter(WaitingRow { waiter, whose, reserved }: &WaitingRow) -> Vec<Facts> {
    let told = waiter.wants.iter().enumerate().map(|(n, want)| {
        let mut told = facts::of_whose(whose);
        told.extend([
            ("ticket", waiter.ticket.into()),
            ("kind", waiter.purpose.as_str().into()),
            ("resource", want.resource.clone().into()),
            ("mode", want.mode.as_str().into()),
            ("since-usec", waiter.since.into()),
        ]);
        if let Purpose::Strengthen(lock) = waiter.purpose {
            told.insert("lock", facts::object(crate::paths::lock(lock)));
        }
        if let Some((_, holder)) = reserved.iter().find(|(reserved, _)| *reserved == n) {
            let until = wall_clock_of(holder.reserved_until.unwrap_or_default());
            told.extend([
                ("reserved-for", facts::object(crate::paths::owner(holder.owner))),
                ("reserved-uuid", holder.owner.uuid.to_string().into()),
                ("reserved-name", holder.name.clone().into()),
                ("reserved-pid", holder.pid.into()),
                ("reserved-until-usec", until.into()),
            ]);
        }
        told
    });
    told.collect()
}

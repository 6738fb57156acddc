//! Conversion of a lock to another mode.
//!
//! A downgrade is written first, so that a restart never claims a stronger mode than was held; then
//! the byte is converted, then the table, so that the table never grants what the kernel refuses.
//! An upgrade changes the table first, so that no other request is granted in between, then the
//! byte, then the record. If a step fails, the steps before it are rolled back.

use std::sync::Arc;

use crate::failpoint::failpoint;
use crate::lock::acquire::handle::Convert;
use crate::lock::disk::in_use::InUse;
use crate::lock::request::{Asked, Work};
use crate::lock::table::queue::Purpose;
use crate::lock::text::escape::shown;
use crate::lock::{self, Lock, Mode, OwnerId, Want};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::report::event_log::EventBatch;
use crate::service::state::events::Publication;
use crate::service::state::wait_queue::{Enqueued, WaitState};
use crate::service::wait::{AttemptOutcome, Command, Granted, Progress};

/// The table's decision on a conversion.
enum Begun {
    Already,
    Convert(Convert, WaitState),
    Queued(Enqueued),
}

/// A conversion of a held lock.
pub(in crate::service) struct Conversion {
    components: Arc<Components>,
    id: OwnerId,
    number: u64,
    mode: Mode,
    /// The target of the lock.
    want: Want,
    in_use: InUse,
}

impl Command for Conversion {
    fn owner(&self) -> OwnerId {
        self.id
    }

    fn asks(&self) -> Vec<Asked<'_>> {
        self.want.asks()
    }

    fn attempt(self, wait: WaitState) -> AttemptOutcome<Self> {
        let progress = self.decide_and_convert(wait);
        let components = Arc::clone(&self.components);
        AttemptOutcome::of(self, &components.refusals, progress)
    }
}

impl Conversion {
    pub(in crate::service) fn new(
        components: &Arc<Components>,
        lock: &Lock,
        mode: Mode,
        in_use: InUse,
    ) -> Self {
        let (components, want) = (Arc::clone(components), lock.want.clone());
        Self { components, id: lock.owner, number: lock.id, mode, want, in_use }
    }

    /// Attempts the conversion once, without waiting. Call it on a worker thread that has the
    /// owner's command lock and the permits of the file systems.
    ///
    /// # Errors
    ///
    /// As for [`crate::service::Service::convert`], except the errors of waiting.
    pub(super) fn attempt_here(self) -> Result<Publication, Error> {
        match self.attempt(WaitState::NoWait) {
            AttemptOutcome::Done(_, publication) => Ok(publication),
            AttemptOutcome::Failed(error) => Err(error),
            AttemptOutcome::Queued(..) => Err(Error::Abandoned),
        }
    }

    /// Returns the result of a conversion that has succeeded.
    fn done(&self, publication: Publication) -> Progress {
        let (locks, fresh) = (vec![self.number], Vec::new());
        Progress::Done(Granted { locks, fresh, waited: false }, publication)
    }

    fn decide_and_convert(&self, wait: WaitState) -> Result<Progress, Error> {
        let Self { components, id, number, mode, .. } = self;
        let (id, number, mode) = (*id, *number, *mode);
        components.stacks.renew();
        let (convert, wait) = match self.begin(wait)? {
            Begun::Already => return Ok(self.done(Publication::default())),
            Begun::Queued(queued) => return Ok(Progress::Queued(queued)),
            Begun::Convert(convert, wait) => (convert, wait),
        };
        let held = Arc::clone(&convert.held);
        let (name, downgrade) = (convert.name.clone(), mode == Mode::Shared);
        if downgrade {
            components.journal.set_mode(number, mode)?;
            failpoint("weaken-noted");
        }
        let mut done = convert.perform().map_err(Error::from);
        failpoint("convert-locked");
        if done.is_ok() && !downgrade {
            done = if wait.is_abandoned() {
                Err(Error::CallerGone)
            } else {
                components.journal.set_mode(number, mode)
            };
            if done.is_err() {
                let (mode, in_use) = (Mode::Shared, InUse::Allowed);
                let back = Convert { held, mode, name, disk: None, non_blocking: true, in_use };
                if let Err(error) = back.perform() {
                    tracing::error!(%error, lock = number, "cannot undo the upgrade of lock {number}");
                }
            }
        }
        if done.is_err() && downgrade {
            // The lock remains exclusive, also after a restart.
            if let Err(error) = components.journal.set_mode(number, Mode::Exclusive) {
                tracing::error!(%error, lock = number, "cannot undo the downgrade of lock {number}");
            }
        }
        let mut state = components.state();
        let error = match done {
            Ok(()) => {
                let event = state.table.set_mode(number, mode)?;
                let pending = EventBatch::new(state.name_of(id), vec![event.clone()]);
                return Ok(self.done(state.events.publish(vec![event]).and_log(pending)));
            }
            Err(error) => error,
        };
        if downgrade {
            return Err(error);
        }
        // The table had the upgrade already. If the lock was released meanwhile, there is nothing
        // to roll back.
        let _ = state.table.set_mode(number, Mode::Shared);
        match error {
            Error::Lock(lock::Error::HeldElsewhere(foreign)) if wait.may_wait() => {
                let lock = state.table.lock(number).ok_or(lock::Error::NoSuchLock(number))?;
                let wants = [Want { mode, ..lock.want.clone() }];
                let purpose = Purpose::Upgrade(number);
                let queued = state.enqueue_for_foreign_holder(
                    &components.state,
                    components.exempt,
                    (id, &wants, purpose),
                    wait,
                    (0, *foreign),
                )?;
                Ok(Progress::Queued(queued))
            }
            error => Err(error),
        }
    }

    /// Performs the table's part, before the byte is converted.
    fn begin(&self, wait: WaitState) -> Result<Begun, Error> {
        let Self { components, id, number, mode, in_use, .. } = self;
        let (id, number, mode, in_use) = (*id, *number, *mode, *in_use);
        let mut state = components.state();
        let no_such = || lock::Error::NoSuchLock(number);
        let want = state.table.lock(number).ok_or_else(no_such)?.want.clone();
        if want.mode == mode {
            return Ok(Begun::Already);
        }
        if want.mode == Mode::None {
            let resource = shown(&want.resource);
            return Err(lock::Error::OnlyRecorded { resource, lock: number }.into());
        }
        if mode == Mode::Exclusive && state.settings.require_lease_for_disks && !want.is_lease() {
            state.check_lease(id, std::slice::from_ref(&want), 0)?;
        }
        let why = "its lock is lost, so it cannot be converted";
        let lost = || lock::Error::not_lockable(&want.resource, why);
        let held = state.held.get(&number).cloned().ok_or_else(lost)?;
        if mode == Mode::Exclusive {
            match state.table.begin_upgrade(number) {
                Ok(()) => {}
                Err(error) if error.is_held() => {
                    let wants = [Want { mode, ..want }];
                    let purpose = Purpose::Upgrade(number);
                    let queued = state.enqueue(
                        &components.state,
                        components.exempt,
                        (id, &wants, purpose),
                        wait,
                        error,
                    )?;
                    return Ok(Begun::Queued(queued));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let hashed = want.lockspace.has_files();
        let disk = want.path.filter(|_| hashed).map(|path| (path, want.identity));
        let again = wait.ticket().and_then(|ticket| state.table.foreign_holder_of(ticket, 0));
        let non_blocking = again.is_some();
        let convert = Convert { held, mode, name: want.resource, disk, non_blocking, in_use };
        Ok(Begun::Convert(convert, wait))
    }
}

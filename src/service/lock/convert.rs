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
use crate::service::report::event_log::EventBatch;
use crate::service::wait::ticket::{Entry, Queued};
use crate::service::wait::{Attempt, Granted, Outcome, Wait};
use crate::service::{Error, Publication, Service};

impl Service {
    /// Changes the mode of a held lock. The current mode is accepted and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] and [`Error::HeldElsewhere`] if others share the lock, the errors of
    /// waiting, and the errors in [`crate::lock::Error`]; the lock is then unchanged.
    pub async fn convert(
        &self,
        number: u64,
        mode: Mode,
        in_use: InUse,
        wait: Option<Wait>,
    ) -> Result<Granted, Error> {
        let lock = self.lock(number).ok_or(lock::Error::NoSuchLock(number))?;
        let turn = self.turn(lock.owner).await?;
        let (service, id, want) = (self.clone(), lock.owner, lock.want);
        let conversion = Conversion { service, id, number, mode, want, in_use };
        self.persist(conversion, Some(turn), wait).await
    }

    /// Changes the mode of a held lock without waiting. Call it on a worker thread that has the
    /// owner's command lock and the permits of the file systems.
    ///
    /// # Errors
    ///
    /// As for [`Self::convert`], except the errors of waiting.
    pub(in crate::service) fn convert_here(
        &self,
        lock: &Lock,
        mode: Mode,
        in_use: InUse,
    ) -> Result<Publication, Error> {
        let (service, id, number, want) = (self.clone(), lock.owner, lock.id, lock.want.clone());
        let conversion = Conversion { service, id, number, mode, want, in_use };
        match conversion.attempt(Entry::Once) {
            Outcome::Done(_, shown) => Ok(shown),
            Outcome::Failed(error) => Err(error),
            Outcome::Queued(..) => Err(Error::Abandoned),
        }
    }

    /// Performs the table's part, before the byte is converted.
    fn begin_conversion(
        &self,
        id: OwnerId,
        number: u64,
        (mode, in_use): (Mode, InUse),
        entry: Entry,
    ) -> Result<Begun, Error> {
        let mut state = self.state();
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
                    let queued = state.queue(self, id, &wants, purpose, entry, error)?;
                    return Ok(Begun::Queued(queued));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let hashed = want.lockspace.has_files();
        let disk = want.path.filter(|_| hashed).map(|path| (path, want.identity));
        let again = entry.ticket().and_then(|ticket| state.table.foreign_holder_of(ticket, 0));
        let non_blocking = again.is_some();
        let convert = Convert { held, mode, name: want.resource, disk, non_blocking, in_use };
        Ok(Begun::Convert(convert, entry))
    }
}

/// The table's decision on a conversion.
enum Begun {
    Already,
    Convert(Convert, Entry),
    Queued(Queued),
}

struct Conversion {
    service: Service,
    id: OwnerId,
    number: u64,
    mode: Mode,
    /// The target of the lock.
    want: Want,
    in_use: InUse,
}

/// The outcome of an attempt.
enum Progress {
    Through(Publication),
    Queued(Queued),
}

impl Attempt for Conversion {
    fn owner(&self) -> OwnerId {
        self.id
    }

    fn asks(&self) -> Vec<Asked<'_>> {
        self.want.asks()
    }

    fn attempt(self, entry: Entry) -> Outcome<Self> {
        match self.decide_and_convert(entry) {
            Ok(Progress::Through(shown)) => {
                let (locks, fresh) = (vec![self.number], Vec::new());
                Outcome::Done(Granted { locks, fresh, waited: false }, shown)
            }
            Ok(Progress::Queued(Queued { place, because })) => {
                if let Some(because) = because {
                    self.service.describe_wait(self.id, place.ticket, because);
                }
                Outcome::Queued(self, place)
            }
            Err(error) => Outcome::Failed(self.service.describe(self.id, error)),
        }
    }
}

impl Conversion {
    fn decide_and_convert(&self, entry: Entry) -> Result<Progress, Error> {
        let Self { service, id, number, mode, in_use, .. } = self;
        let (id, number, mode) = (*id, *number, *mode);
        service.renew_stacks();
        let (convert, entry) = match service.begin_conversion(id, number, (mode, *in_use), entry)? {
            Begun::Already => return Ok(Progress::Through(Publication::default())),
            Begun::Queued(queued) => return Ok(Progress::Queued(queued)),
            Begun::Convert(convert, entry) => (convert, entry),
        };
        let held = Arc::clone(&convert.held);
        let (name, downgrade) = (convert.name.clone(), mode == Mode::Shared);
        if downgrade {
            service.keep().set_mode(number, mode)?;
            failpoint("weaken-noted");
        }
        let mut done = convert.perform().map_err(Error::from);
        failpoint("convert-locked");
        if done.is_ok() && !downgrade {
            done = if entry.is_abandoned() {
                Err(Error::CallerGone)
            } else {
                service.keep().set_mode(number, mode)
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
            if let Err(error) = service.keep().set_mode(number, Mode::Exclusive) {
                tracing::error!(%error, lock = number, "cannot undo the downgrade of lock {number}");
            }
        }
        let mut state = service.state();
        let error = match done {
            Ok(()) => {
                let event = state.table.set_mode(number, mode)?;
                let pending = EventBatch::new(state.name_of(id), vec![event.clone()]);
                return Ok(Progress::Through(state.publish(vec![event]).and_say(pending)));
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
            Error::Lock(lock::Error::HeldElsewhere(foreign)) if entry.may_wait() => {
                let lock = state.table.lock(number).ok_or(lock::Error::NoSuchLock(number))?;
                let wants = [Want { mode, ..lock.want.clone() }];
                let purpose = Purpose::Upgrade(number);
                let known =
                    entry.ticket().and_then(|ticket| state.table.foreign_holder_of(ticket, 0));
                let foreign = known.unwrap_or(*foreign);
                let error = lock::Error::HeldElsewhere(Box::new(foreign.clone()));
                let queued = state.queue(service, id, &wants, purpose, entry, error)?;
                state.table.wait_for_foreign_holder(queued.place.ticket, 0, foreign);
                Ok(Progress::Queued(queued))
            }
            error => Err(error),
        }
    }
}

//! How a lock gets another mode.
//!
//! To weaken: noted first, so that a restart asks for no more than was kept; then the byte, then
//! the table, so that the table never promises what the kernel does not give. To strengthen: the
//! table first, so that nobody comes in between, then the byte, then the note; and back should one
//! of them fail.

use std::sync::Arc;

use super::{Error, Service, Shown};
use crate::lock::held::Convert;
use crate::lock::work::Work;
use crate::lock::{self, Mode, OwnerId};
use crate::step::step;

impl Service {
    /// Changes the mode of a held lock. The same mode again is no change and no error.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] and [`Error::HeldElsewhere`] where others share it, and those of
    /// [`crate::lock::Error`]; the lock is then as it was.
    pub async fn convert(&self, number: u64, mode: Mode) -> Result<(), Error> {
        let lock = self.lock(number).ok_or(lock::Error::NoSuchLock(number))?;
        let _turn = self.turn(lock.owner).await?;
        let story = Story { service: self.clone(), id: lock.owner, number, mode };
        self.storage().run(story).await??.wait().await;
        Ok(())
    }

    /// The table's part before the byte is touched; `None` where nothing is to be changed.
    fn begin_conversion(&self, number: u64, mode: Mode) -> Result<Option<Convert>, Error> {
        let mut state = self.state();
        let no_such = || lock::Error::NoSuchLock(number);
        let want = state.table.lock(number).ok_or_else(no_such)?.want.clone();
        if want.mode == mode {
            return Ok(None);
        }
        let why = "its lock is lost, so it can't be converted";
        let lost = || lock::Error::not_lockable(&want.resource, why);
        let held = state.held.get(&number).cloned().ok_or_else(lost)?;
        if mode == Mode::Exclusive {
            state.table.begin_strengthening(number)?;
        }
        let hashed = want.lockspace.has_files();
        let disk = want.path.filter(|_| hashed).map(|path| (path, want.identity));
        Ok(Some(Convert { held, mode, name: want.resource, disk }))
    }
}

struct Story {
    service: Service,
    id: OwnerId,
    number: u64,
    mode: Mode,
}

impl Work for Story {
    type Answer = Result<Shown, Error>;

    fn perform(self) -> Self::Answer {
        let Self { service, id, number, mode } = self;
        tell(&service, number, mode).map_err(|error| service.describe(id, error))
    }
}

fn tell(service: &Service, number: u64, mode: Mode) -> Result<Shown, Error> {
    let Some(convert) = service.begin_conversion(number, mode)? else {
        return Ok(Shown::default());
    };
    let held = Arc::clone(&convert.held);
    let (name, weaken) = (convert.name.clone(), mode == Mode::Shared);
    if weaken {
        service.keep().set_mode(number, mode)?;
        step("weaken-noted");
    }
    let mut done = convert.perform().map_err(Error::from);
    step("convert-locked");
    if done.is_ok() && !weaken {
        done = service.keep().set_mode(number, mode);
        if done.is_err() {
            let back = Convert { held, mode: Mode::Shared, name, disk: None };
            if let Err(error) = back.perform() {
                tracing::error!(%error, lock = number, "undoing a strengthening failed");
            }
        }
    }
    if done.is_err() && weaken {
        // It is exclusive still, and is to be so after a restart.
        if let Err(error) = service.keep().set_mode(number, Mode::Exclusive) {
            tracing::error!(%error, lock = number, "undoing a weakening failed");
        }
    }
    let mut state = service.state();
    match done {
        Ok(()) => {
            let event = state.table.set_mode(number, mode)?;
            Ok(state.publish(vec![event]))
        }
        Err(error) => {
            if !weaken {
                // Entered before it was done. If the lock is gone meanwhile, so is its mode.
                let _ = state.table.set_mode(number, Mode::Shared);
            }
            Err(error)
        }
    }
}

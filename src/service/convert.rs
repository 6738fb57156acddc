//! How a lock gets another mode.
//!
//! To weaken: the byte first, then the table, so that the table never promises what the kernel
//! does not give. To strengthen: the table first, so that nobody comes in between, then the byte;
//! and back in the table should the kernel refuse.

use super::{Error, Service, Shown};
use crate::lock::held::Convert;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::work::Work;
use crate::lock::{self, Mode, OwnerId};

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
        let held = state.held.get(&number).cloned().ok_or_else(no_such)?;
        if mode == Mode::Exclusive {
            state.table.begin_strengthening(number)?;
        }
        let hashed = want.lockspace == LockspaceKind::File;
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
    let Some(convert) = service.begin_conversion(number, mode)? else { return Ok(Shown(None)) };
    let done = convert.perform();
    let mut state = service.state();
    match done {
        Ok(()) => {
            let event = state.table.set_mode(number, mode)?;
            Ok(state.publish(vec![event]))
        }
        Err(error) => {
            if mode == Mode::Exclusive {
                // Entered before it was done. If the lock is gone meanwhile, so is its mode.
                let _ = state.table.set_mode(number, Mode::Shared);
            }
            Err(error.into())
        }
    }
}

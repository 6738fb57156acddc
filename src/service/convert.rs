//! How a lock gets another mode.
//!
//! To weaken: the byte first, then the table, so that the table never promises what the kernel
//! does not give. To strengthen: the table first, so that nobody comes in between, then the byte;
//! and back in the table should the kernel refuse.

use super::{Error, Service};
use crate::lock::held::Convert;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::{self, Mode};

impl Service {
    /// Changes the mode of a held lock. The same mode again is no change and no error.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] and [`Error::HeldElsewhere`] where others share it, and those of
    /// [`crate::lock::Error`]; the lock is then as it was.
    pub async fn convert(&self, number: u64, mode: Mode) -> Result<(), Error> {
        let no_such = || Error::from(lock::Error::NoSuchLock(number));
        let id = self.lock(number).ok_or_else(no_such)?.owner;
        let _turn = self.turn(id).await?;
        let begun = {
            let mut state = self.state();
            let lock = state.table.lock(number).ok_or_else(no_such)?.clone();
            if lock.want.mode == mode {
                return Ok(());
            }
            let held = state.held.get(&number).cloned().ok_or_else(no_such)?;
            let begun = match mode {
                Mode::Exclusive => state.table.begin_strengthening(number),
                Mode::Shared => Ok(()),
            };
            begun.map(|()| {
                let want = lock.want;
                let hashed = want.lockspace == LockspaceKind::File;
                let disk = want.path.filter(|_| hashed).map(|path| (path, want.identity));
                Convert { held, mode, name: want.resource, disk }
            })
        };
        let work = match begun {
            Ok(work) => work,
            Err(error) => return Err(self.tell(id, error.into()).await),
        };
        let done = self.storage().run(work).await.and_then(|done| done.map_err(Error::from));
        let shown = {
            let mut state = self.state();
            match done {
                Ok(()) => Ok(state.table.set_mode(number, mode)?),
                Err(error) => {
                    if mode == Mode::Exclusive {
                        // Entered before it was done. If the lock is gone meanwhile, so is its mode.
                        let _ = state.table.set_mode(number, Mode::Shared);
                    }
                    Err(error)
                }
            }
            .map(|event| state.publish(vec![event]))
        };
        match shown {
            Ok(shown) => {
                shown.wait().await;
                Ok(())
            }
            Err(error) => Err(self.tell(id, error).await),
        }
    }
}

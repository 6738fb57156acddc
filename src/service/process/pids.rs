//! Translation of process numbers that callers send.
//!
//! For a caller in another pid namespace, a number means the process that has it there; in the
//! service's namespace another process may have that number. So the number is translated, or the
//! request is refused: an owner that is bound to another process than the caller means would live
//! as long as that process.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::caller::{CallerProcess, ENDED, ViewError};
use crate::inspector::{Requester, timeouts};
use crate::life::{self, Process};
use crate::lock::request::Work;
use crate::lock::resolve::view::{Look, Numbered};
use crate::service::core::error::Error;
use crate::service::process::Inspection;

impl Inspection {
    /// Finds the process that has a number for a caller in another pid namespace; returns `None`
    /// for a caller in the service's namespace, where the number means the same. Call it on a
    /// worker thread.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignPid`] if the number cannot be translated.
    pub fn translate_pid(
        &self,
        caller: &CallerProcess,
        pid: u32,
    ) -> Result<Option<Process>, Error> {
        let foreign = |why: String| Error::ForeignPid { pid, caller: caller.pid, why };
        let same = match caller.same_pids.get() {
            Some(same) => Some(*same),
            None => {
                self.look(caller, Look::at(caller.pid))
                    .map_err(|unseen| unseen.or(foreign))?
                    .same_pids
            }
        };
        match same {
            Some(true) => return Ok(None),
            Some(false) => {}
            None => return Err(foreign("its pid namespace is not known".to_owned())),
        }
        let opened = caller.open().map_err(|why| foreign(why.to_owned()))?;
        let (requester, wanted) =
            (Requester::Callers(caller.uid), Numbered { by: caller.pid, number: pid });
        let found = self.inspector.numbered(requester, wanted, timeouts::view());
        let found = found.map_err(|error| ViewError::Inspector(error).or(foreign))?;
        if life::process::has_exited(opened.as_fd()) {
            return Err(foreign(ENDED.to_owned()));
        }
        let found = found.ok_or_else(|| foreign("there is no such process".to_owned()))?;
        let process = Process::from_pidfd(found)?;
        // The process is alive now, so what was read before belongs to it and not to a successor of
        // its number.
        process.check_alive()?;
        Ok(Some(process))
    }

    /// Finds the process that has a number for a caller.
    ///
    /// # Errors
    ///
    /// As for [`Self::translate_pid`]; [`life::Error::NoSuchProcess`].
    pub async fn find_process(
        self: &Arc<Self>,
        caller: &Arc<CallerProcess>,
        pid: u32,
    ) -> Result<Process, Error> {
        if caller.same_pids.get() == Some(&true) {
            return Ok(Process::from_pid(pid)?);
        }
        let foreign = |why: String| Error::ForeignPid { pid, caller: caller.pid, why };
        let permit = self.inspector_permit(Requester::Callers(caller.uid), timeouts::view()).await;
        let permit = permit.map_err(|error| ViewError::Inspector(error).or(foreign))?;
        let find = FindProcess { inspection: Arc::clone(self), caller: Arc::clone(caller), pid };
        self.run_with_permit(permit, find).await?
    }
}

struct FindProcess {
    inspection: Arc<Inspection>,
    caller: Arc<CallerProcess>,
    pid: u32,
}

impl Work for FindProcess {
    type Answer = Result<Process, Error>;

    fn perform(self) -> Self::Answer {
        match self.inspection.translate_pid(&self.caller, self.pid)? {
            Some(process) => Ok(process),
            None => Ok(Process::from_pid(self.pid)?),
        }
    }
}

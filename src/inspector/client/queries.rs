//! The queries of the service.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::Inspector;
use crate::inspector::error::Error;
use crate::inspector::identity::ProcessIdentity;
use crate::inspector::protocol::{Answer, Query, Reply};
use crate::inspector::requester::Requester;
use crate::lock::model::process::Process;
use crate::lock::model::process_search::{Found, Search};
use crate::lock::resolve::view::{Look, Numbered, View};

/// The maximum number of pipes in one query, which must fit into a message.
const PIPES_PER_QUERY: usize = 4096;
/// The number of scans of all processes before a pipe counts as closed: processes start, exit and
/// pass on descriptors during a scan.
const SCANS: usize = 3;
/// The timeout of a query that decides whether a lock is kept.
const VITAL_TIMEOUT: Duration = Duration::from_secs(10);

impl Inspector {
    /// Finds the processes that have locks and files. Blocks until the timeout at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn search(
        &self,
        requester: Requester,
        search: Search,
        timeout: Duration,
    ) -> Result<Found, Error> {
        match self.request(requester, Query::Search(search), timeout)?.answer {
            Answer::Found(found) => Ok(found),
            answer => Err(unexpected_answer(answer)),
        }
    }

    /// Describes processes, in their order. Blocks until the timeout at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn describe(
        &self,
        requester: Requester,
        pids: Vec<u32>,
        timeout: Duration,
    ) -> Result<Vec<Option<Process>>, Error> {
        if pids.is_empty() {
            return Ok(Vec::new());
        }
        match self.request(requester, Query::Describe(pids), timeout)?.answer {
            Answer::Described(described) => Ok(described),
            answer => Err(unexpected_answer(answer)),
        }
    }

    /// Resolves names as another process does. Blocks until the timeout at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn look(&self, requester: Requester, look: Look, timeout: Duration) -> Result<View, Error> {
        match self.request(requester, Query::Look(look), timeout)?.answer {
            Answer::View(view) => Ok(view),
            answer => Err(unexpected_answer(answer)),
        }
    }

    /// Finds a process by its number in the pid namespace of another process. Blocks until the
    /// timeout at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn numbered(
        &self,
        requester: Requester,
        wanted: Numbered,
        timeout: Duration,
    ) -> Result<Option<OwnedFd>, Error> {
        let Reply { answer, mut fds } =
            self.request(requester, Query::Numbered(wanted), timeout)?;
        match answer {
            Answer::Numbered(_) => Ok(fds.pop()),
            answer => Err(unexpected_answer(answer)),
        }
    }

    /// Identifies processes, in their order. Blocks until the timeout at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn identify(
        &self,
        requester: Requester,
        pids: Vec<u32>,
        timeout: Duration,
    ) -> Result<Vec<Option<ProcessIdentity>>, Error> {
        let count = pids.len();
        match self.request(requester, Query::Identify(pids), timeout)?.answer {
            Answer::Identified(identified) if identified.len() == count => Ok(identified),
            answer => Err(unexpected_answer(answer)),
        }
    }

    /// Opens the write ends of these pipes of the service, given by their inodes. A pipe that is
    /// missing in the result is open in no process.
    ///
    /// # Errors
    ///
    /// [`Error`]: a pipe may be open nevertheless.
    pub fn open_pipes(&self, inodes: &[u64]) -> Result<HashMap<u64, OwnedFd>, Error> {
        let mut found = HashMap::new();
        for part in inodes.chunks(PIPES_PER_QUERY) {
            let mut scans = 0;
            while scans < SCANS {
                let missing = part.iter().copied().filter(|inode| !found.contains_key(inode));
                let missing: Vec<u64> = missing.collect();
                if missing.is_empty() {
                    break;
                }
                let Reply { answer, fds } =
                    self.request(Requester::Service, Query::OpenPipes(missing), VITAL_TIMEOUT)?;
                let Answer::Opened { inodes, full } = answer else {
                    return Err(unexpected_answer(answer));
                };
                scans += usize::from(!full);
                found.extend(inodes.into_iter().zip(fds));
            }
        }
        Ok(found)
    }

    /// Returns whether a process has open files for all of these links.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn has_open(&self, pid: u32, links: Vec<String>) -> Result<bool, Error> {
        match self.request(Requester::Service, Query::HasOpen(pid, links), VITAL_TIMEOUT)?.answer {
            Answer::HasOpen(has) => Ok(has),
            answer => Err(unexpected_answer(answer)),
        }
    }
}

/// Converts an answer that does not belong to the query to an error.
fn unexpected_answer(answer: Answer) -> Error {
    match answer {
        Answer::Failed(why) => Error::Worker(why),
        _ => Error::Worker("the answer is to another question".to_owned()),
    }
}

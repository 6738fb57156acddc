//! Questions that the service asks besides those about a disk.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::client::unfit;
use super::identify::Identity;
use super::{Answer, Asker, Error, Inspector, Question, Reply};

/// How many pipes one question is about: it has to fit into a message.
const PIPES: usize = 4096;
/// How often all processes are looked at before a pipe counts as open nowhere: they come and go, and
/// pass on what they have, meanwhile.
const SCANS: usize = 3;
/// How long a question may take on which depends whether a lock is kept.
const VITAL: Duration = Duration::from_secs(10);

impl Inspector {
    /// Identifies processes, in their order. Blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn identify(
        &self,
        asker: Asker,
        pids: Vec<u32>,
        patience: Duration,
    ) -> Result<Vec<Option<Identity>>, Error> {
        let asked = pids.len();
        match self.ask(asker, Question::Identify(pids), patience)?.answer {
            Answer::Identified(identified) if identified.len() == asked => Ok(identified),
            answer => Err(unfit(answer)),
        }
    }

    /// Opens the write ends of these pipes of the service's, by their inodes. What is missing in the
    /// answer is open in no process.
    ///
    /// # Errors
    ///
    /// [`Error`]: a pipe may be open nevertheless.
    pub fn open_pipes(&self, inodes: &[u64]) -> Result<HashMap<u64, OwnedFd>, Error> {
        let mut found = HashMap::new();
        for part in inodes.chunks(PIPES) {
            let mut scans = 0;
            while scans < SCANS {
                let missing = part.iter().copied().filter(|inode| !found.contains_key(inode));
                let missing: Vec<u64> = missing.collect();
                if missing.is_empty() {
                    break;
                }
                let Reply { answer, fds } =
                    self.ask(Asker::Service, Question::OpenPipes(missing), VITAL)?;
                let Answer::Opened { inodes, full } = answer else { return Err(unfit(answer)) };
                scans += usize::from(!full);
                found.extend(inodes.into_iter().zip(fds));
            }
        }
        Ok(found)
    }

    /// Whether a process has files open to which all of these links lead.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn has_open(&self, pid: u32, links: Vec<String>) -> Result<bool, Error> {
        match self.ask(Asker::Service, Question::HasOpen(pid, links), VITAL)?.answer {
            Answer::HasOpen(has) => Ok(has),
            answer => Err(unfit(answer)),
        }
    }
}

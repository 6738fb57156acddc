//! The service's side: asks workers, and leaves those behind that hang.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::hand::{Hand, Heard, Start};
use super::position::Place;
use super::skip::Skipped;
use super::threads::Threads;
use super::{Answer, Asker, Error, Question, Reply, Request};
use crate::lock::foreign::fdinfo::{Found, Search};
use crate::lock::model::process::Process;
use crate::lock::resolve::view::{Look, Numbered, View};

/// How many workers there may be, hung ones included.
pub const WORKERS: usize = 8;
/// How many of them are reserved for root, libvirt's front and the service itself.
const RESERVED: usize = 2;
/// How many workers other users may occupy.
pub const ORDINARY: usize = WORKERS - RESERVED;
/// How many workers wait for the next question.
const IDLE: usize = 1;
/// After how long without a step a worker counts as hung.
const HANGS: Duration = Duration::from_millis(100);
/// The same for one that looks names up in file systems, which may be slow.
const LOOKUP_HANGS: Duration = Duration::from_secs(1);
/// How often a worker's steps are looked at, and how long another asker waits before it looks again
/// whether there is room.
const LOOK: Duration = Duration::from_millis(20);
/// How long a worker may take to come up.
const UP: Duration = Duration::from_secs(10);
/// How long a process is skipped at which a worker hung that has died since, in microseconds.
const SKIPPED_FOR: u64 = 60_000_000;

/// A handle on the workers. The default one has none, and answers nothing.
#[derive(Debug, Clone, Default)]
pub struct Inspector(Arc<Shared>);

#[derive(Default)]
struct Shared {
    start: Option<Start>,
    pool: Mutex<Pool>,
    /// Told when a worker or an asker is free again.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    /// Those that wait for a question.
    idle: Vec<Hand>,
    /// On whose behalf questions are being asked.
    asking: HashSet<Asker>,
    /// Threads that ask, or wait for their turn to ask.
    threads: Threads,
    /// Those that are not asked any more and have not died yet, with the place where they are.
    left: Vec<(Hand, Place)>,
    skipped: Skipped,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("start", &self.start).finish_non_exhaustive()
    }
}

impl Inspector {
    /// One whose workers this process starts.
    #[must_use]
    pub fn new(start: Start) -> Self {
        Self(Arc::new(Shared { start: Some(start), ..Shared::default() }))
    }

    /// Looks for the processes that have locks and files. Blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn search(&self, asker: Asker, search: Search, patience: Duration) -> Result<Found, Error> {
        match self.ask(asker, Question::Search(search), patience)?.answer {
            Answer::Found(found) => Ok(found),
            answer => Err(unfit(answer)),
        }
    }

    /// Describes processes, in their order. Blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn describe(
        &self,
        asker: Asker,
        pids: Vec<u32>,
        patience: Duration,
    ) -> Result<Vec<Option<Process>>, Error> {
        if pids.is_empty() {
            return Ok(Vec::new());
        }
        match self.ask(asker, Question::Describe(pids), patience)?.answer {
            Answer::Described(described) => Ok(described),
            answer => Err(unfit(answer)),
        }
    }

    /// Looks names up as another process does. Blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn look(&self, asker: Asker, look: Look, patience: Duration) -> Result<View, Error> {
        match self.ask(asker, Question::Look(look), patience)?.answer {
            Answer::View(view) => Ok(view),
            answer => Err(unfit(answer)),
        }
    }

    /// Finds the process that has a number for another process. Blocks until the deadline at most.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn numbered(
        &self,
        asker: Asker,
        wanted: Numbered,
        patience: Duration,
    ) -> Result<Option<OwnedFd>, Error> {
        let Reply { answer, mut fds } = self.ask(asker, Question::Numbered(wanted), patience)?;
        match answer {
            Answer::Numbered(_) => Ok(fds.pop()),
            answer => Err(unfit(answer)),
        }
    }

    /// Starts the worker that answers the first question, unless there is one, so that the question need
    /// not wait for it. Blocks until it is up.
    pub fn prepare(&self) {
        let Some(start) = &self.0.start else { return };
        if !self.pool().idle.is_empty() {
            return;
        }
        let up = |mut hand: Hand| match hand.greet(Instant::now() + UP) {
            Ok(()) => {
                self.back(hand);
                Ok(())
            }
            Err(error) => {
                self.leave(hand, Place::default(), false);
                Err(error)
            }
        };
        if let Err(error) = start.worker().and_then(up) {
            tracing::warn!(%error, "cannot start an inspector; refusals will not name foreign holders");
        }
    }

    /// How many workers hang.
    #[must_use]
    pub fn hung(&self) -> usize {
        let mut pool = self.pool();
        pool.sweep();
        pool.left.len()
    }

    /// Asks a question and waits for its answer, until the deadline at most. For a thread that may
    /// block.
    ///
    /// A worker that hangs at a process is replaced while there is time: the next one skips that
    /// process.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn ask(
        &self,
        asker: Asker,
        question: Question,
        patience: Duration,
    ) -> Result<Reply, Error> {
        let until = Instant::now() + patience;
        let Some(start) = &self.0.start else {
            return Err(Error::Start(io::ErrorKind::Unsupported.into()));
        };
        let _thread = self.thread(asker)?;
        let _turn = self.enter(asker, until)?;
        let mut request =
            Request { question, service: std::process::id(), skipped: Skipped::default() };
        // Where there is time, a worker that only waits for a processor is not taken for hung.
        let hangs = HANGS.max(patience / 8);
        let mut reused = 0;
        loop {
            let idle = {
                let mut pool = self.pool();
                request.skipped.clone_from(&pool.skipped);
                pool.idle.pop()
            };
            // One that was idle may have ended, or may be of a program that was replaced.
            reused += usize::from(idle.is_some());
            let retry = idle.is_some() && reused <= IDLE;
            let asked = match idle {
                Some(hand) => Ok(hand),
                None => start.worker().map_err(Error::Start),
            };
            let mut hand = asked?;
            let hangs = match request.question {
                Question::Look(_) => LOOKUP_HANGS,
                _ => hangs,
            };
            match hand.ask(&request, until, hangs, LOOK) {
                Heard::Reply(reply) => {
                    self.back(hand);
                    return Ok(reply);
                }
                Heard::Ended(why) => {
                    self.leave(hand, Place::default(), false);
                    if !retry {
                        return Err(Error::Worker(why));
                    }
                }
                Heard::Hangs(place) => {
                    self.leave(hand, place, true);
                    if Instant::now() >= until {
                        return Err(Error::Late);
                    }
                    self.room(asker)?;
                }
                Heard::Late(place) => {
                    self.leave(hand, place, false);
                    return Err(Error::Late);
                }
            }
        }
    }

    /// Counts the calling thread.
    fn thread(&self, asker: Asker) -> Result<Thread<'_>, Error> {
        let fits = self.pool().threads.enter(asker);
        if fits { Ok(Thread { inspector: self, asker }) } else { Err(Error::Busy) }
    }

    /// Waits until this asker asks nothing else, and there is room for one more worker.
    fn enter(&self, asker: Asker, until: Instant) -> Result<Turn<'_>, Error> {
        let mut pool = self.pool();
        loop {
            pool.sweep();
            let busy = pool.asking.contains(&asker);
            if !busy && pool.has_room(asker) {
                pool.asking.insert(asker);
                return Ok(Turn { inspector: self, asker });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(if busy { Error::Late } else { Error::Busy });
            }
            let waited = self.0.freed.wait_timeout(pool, left.min(LOOK));
            pool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether there is room for a worker in place of one that was left behind.
    fn room(&self, asker: Asker) -> Result<(), Error> {
        let mut pool = self.pool();
        pool.sweep();
        // The asker itself is counted already.
        pool.asking.remove(&asker);
        let room = pool.has_room(asker);
        pool.asking.insert(asker);
        if room { Ok(()) } else { Err(Error::Busy) }
    }

    fn back(&self, hand: Hand) {
        let mut pool = self.pool();
        if pool.idle.len() < IDLE {
            pool.idle.push(hand);
            return;
        }
        drop(pool);
        self.leave(hand, Place::default(), false);
    }

    /// Leaves a worker behind: it is killed, and counted until it is dead.
    fn leave(&self, mut hand: Hand, place: Place, hangs: bool) {
        hand.kill();
        let mut pool = self.pool();
        if hangs && place.pid != 0 {
            pool.skipped.add(place, since_boot());
            tracing::debug!(
                pid = place.pid,
                uid = place.uid,
                "an inspector hangs while it reads process {}",
                place.pid
            );
        }
        pool.left.push((hand, place));
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    fn has_room(&self, asker: Asker) -> bool {
        let most = if asker.is_privileged() { WORKERS } else { ORDINARY };
        self.asking.len() + self.left.len() < most
    }

    /// Forgets workers that have died, and processes that need not be skipped any more.
    fn sweep(&mut self) {
        self.left.retain_mut(|(hand, _)| !hand.is_dead());
        let now = since_boot();
        let Self { left, skipped, .. } = self;
        skipped.retain(|hang| {
            let hangs = left.iter().any(|(_, place)| place.pid == hang.pid);
            hangs || now.saturating_sub(hang.at) < SKIPPED_FOR
        });
    }
}

/// A thread that asks or waits, until it is dropped.
struct Thread<'i> {
    inspector: &'i Inspector,
    asker: Asker,
}

impl Drop for Thread<'_> {
    fn drop(&mut self) {
        self.inspector.pool().threads.leave(self.asker);
    }
}

/// One asker's right to ask, until it is dropped.
struct Turn<'i> {
    inspector: &'i Inspector,
    asker: Asker,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.inspector.pool().asking.remove(&self.asker);
        self.inspector.0.freed.notify_all();
    }
}

pub(super) fn unfit(answer: Answer) -> Error {
    match answer {
        Answer::Failed(why) => Error::Worker(why),
        _ => Error::Worker("the answer is to another question".to_owned()),
    }
}

/// The time since boot, in microseconds, as processes' starts are counted.
fn since_boot() -> u64 {
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

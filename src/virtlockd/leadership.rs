//! The roles of the workers: which of them waits for the clients' events.
//!
//! One worker, the *leader*, waits for events and serves the clients in the order of arrival. Nothing
//! is handed from thread to thread, which would cost more than most requests. A request can hang in
//! the kernel, so another worker, the *watcher*, checks the leader while it serves: if one client
//! has been served for [`HANG_TIMEOUT`], the watcher becomes the leader, and another worker the watcher. The
//! worker that hung takes no more events. Once its request returns, it becomes the watcher if there
//! is none, and is a *reserve* otherwise.
//!
//! Invariants: two leaders never wait for events at once, as a term ends by one change of one
//! atomic number. While the limit of workers is not reached, there is a leader and a watcher. A
//! watcher sleeps without a time limit while the leader is idle.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::sync;

/// How long the leader may serve one client before it is replaced. A longer time delays all other
/// clients; a shorter one replaces leaders that only wait for a processor.
const HANG_TIMEOUT: Duration = Duration::from_millis(2);
/// The number of workers that are kept in reserve.
const MAX_RESERVES: usize = 2;
/// How long a worker is in reserve before it ends.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The activity of a leader that was replaced.
const REPLACED: u64 = u64::MAX;

/// The time for which one worker is the leader.
#[derive(Debug, Default)]
pub(super) struct Term {
    /// How often the leader began or ended to serve a client: odd while it serves one. [`REPLACED`]
    /// once it is the leader no longer.
    activity: AtomicU64,
}

/// The roles of all workers.
#[derive(Debug, Default)]
pub(super) struct Leadership {
    roles: Mutex<Roles>,
    /// Notified when the role of a reserve changes.
    assigned: Condvar,
    /// Whether the watcher sleeps until the leader serves a client.
    is_watcher_asleep: AtomicBool,
    /// Whether no thread could be started for a watcher.
    lacks_watcher: AtomicBool,
}

#[derive(Debug, Default)]
struct Roles {
    term: Arc<Term>,
    watcher: Option<Thread>,
    reserves: usize,
    /// Whether a reserve must become the watcher.
    needs_watcher: bool,
}

impl Leadership {
    /// Returns the first term, for the first worker.
    pub(super) fn first_term(&self) -> Arc<Term> {
        Arc::clone(&sync::lock(&self.roles).term)
    }

    /// Begins to serve a client. Returns `false` if the worker is not the leader any more.
    pub(super) fn begin(&self, term: &Term) -> bool {
        let idle = term.activity();
        // A leader that does not serve is not replaced.
        let is_leader = idle != REPLACED && term.advance(idle, idle + 1);
        // The watcher stores this before it reads the activity.
        if is_leader && self.is_watcher_asleep.load(Ordering::SeqCst) {
            self.wake_watcher();
        }
        is_leader
    }

    /// Finishes serving a client. Returns `false` if the worker was replaced meanwhile.
    pub(super) fn finish(term: &Term) -> bool {
        let serving = term.activity();
        serving != REPLACED && term.advance(serving, serving + 1)
    }

    /// Whether there is no watcher, since no thread could be started.
    pub(super) fn lacks_watcher(&self) -> bool {
        self.lacks_watcher.load(Ordering::Relaxed)
    }

    /// Sets whether there is no watcher.
    pub(super) fn set_lacks_watcher(&self, lacks_watcher: bool) {
        self.lacks_watcher.store(lacks_watcher, Ordering::Relaxed);
    }

    fn wake_watcher(&self) {
        self.is_watcher_asleep.store(false, Ordering::SeqCst);
        if let Some(watcher) = &sync::lock(&self.roles).watcher {
            watcher.unpark();
        }
    }

    /// Makes a worker that is not the leader the watcher, or keeps it in reserve. Returns once it
    /// becomes the leader, with its term, or `None` once it must end. `spawn` starts another worker that calls this function.
    pub(super) fn wait_to_lead(&self, spawn: impl FnOnce() -> bool) -> Option<Arc<Term>> {
        if !self.become_watcher() {
            return None;
        }
        let term = self.watch();
        let has_reserve = {
            let mut roles = sync::lock(&self.roles);
            roles.watcher = None;
            roles.term = Arc::clone(&term);
            roles.needs_watcher = true;
            roles.reserves > 0
        };
        if has_reserve {
            self.assigned.notify_one();
        } else if !spawn() {
            self.set_lacks_watcher(true);
        }
        Some(term)
    }

    /// Becomes the watcher, or waits in reserve until it can. Returns `false` if there are enough
    /// workers in reserve.
    fn become_watcher(&self) -> bool {
        let mut roles = sync::lock(&self.roles);
        if roles.watcher.is_some() {
            if roles.reserves >= MAX_RESERVES {
                return false;
            }
            roles.reserves += 1;
            let waited = self.assigned.wait_timeout_while(roles, RESERVE_TIMEOUT, |roles| {
                !mem::take(&mut roles.needs_watcher)
            });
            let (waiting, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            roles = waiting;
            roles.reserves -= 1;
            if timeout.timed_out() {
                return false;
            }
        }
        roles.needs_watcher = false;
        roles.watcher = Some(thread::current());
        self.set_lacks_watcher(false);
        true
    }

    /// Watches the leader, and returns its successor's term once it has to be replaced.
    fn watch(&self) -> Arc<Term> {
        let term = Arc::clone(&sync::lock(&self.roles).term);
        let (mut seen, mut since) = (term.activity(), Instant::now());
        loop {
            // May return too early.
            thread::park_timeout(HANG_TIMEOUT.saturating_sub(since.elapsed()));
            let now = term.activity();
            let is_unchanged = now == seen && since.elapsed() >= HANG_TIMEOUT;
            if is_unchanged && is_serving(now) && term.advance(now, REPLACED) {
                return Arc::default();
            }
            if is_unchanged && !is_serving(now) {
                self.sleep_until_active(&term, now);
            }
            if is_unchanged || now != seen {
                (seen, since) = (term.activity(), Instant::now());
            }
        }
    }

    /// Sleeps while the leader is idle; may return too early.
    fn sleep_until_active(&self, term: &Term, idle: u64) {
        self.is_watcher_asleep.store(true, Ordering::SeqCst);
        if term.activity() == idle {
            thread::park();
        }
        self.is_watcher_asleep.store(false, Ordering::SeqCst);
    }
}

impl Term {
    fn activity(&self) -> u64 {
        self.activity.load(Ordering::SeqCst)
    }

    /// Changes the activity. Returns `false` if it is no longer `from`.
    fn advance(&self, from: u64, to: u64) -> bool {
        self.activity.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// Whether a leader with this activity serves a client.
fn is_serving(activity: u64) -> bool {
    activity % 2 == 1
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Starts a worker that waits to lead. Returns its outcomes: the terms that it got.
    fn start_worker(leadership: &Arc<Leadership>) -> mpsc::Receiver<Option<Arc<Term>>> {
        let (leadership, (sender, terms)) = (Arc::clone(leadership), mpsc::channel());
        thread::spawn(move || {
            let term = leadership.wait_to_lead(|| false);
            let _ = sender.send(term);
        });
        terms
    }

    fn wait_until_watched(leadership: &Leadership) {
        while sync::lock(&leadership.roles).watcher.is_none() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_leader_that_hangs_is_replaced_and_watches_its_successor() {
        let leadership = Arc::new(Leadership::default());
        let first = leadership.first_term();
        let terms = start_worker(&leadership);
        assert!(leadership.begin(&first));
        let second = terms.recv().unwrap().unwrap();
        assert!(!Leadership::finish(&first) && !leadership.begin(&first));
        // No thread could be started for another watcher, so the one that hung is the next.
        assert!(leadership.lacks_watcher());
        let terms = start_worker(&leadership);
        wait_until_watched(&leadership);
        assert!(!leadership.lacks_watcher());
        assert!(leadership.begin(&second));
        let third = terms.recv().unwrap().unwrap();
        assert!(!Leadership::finish(&second) && leadership.begin(&third));
    }

    #[test]
    fn a_watcher_sleeps_while_the_leader_is_idle() {
        let leadership = Arc::new(Leadership::default());
        let term = leadership.first_term();
        let terms = start_worker(&leadership);
        while !leadership.is_watcher_asleep.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        assert!(terms.try_recv().is_err());
        // It is woken, and replaces the leader.
        assert!(leadership.begin(&term));
        terms.recv().unwrap().unwrap();
    }

    #[test]
    fn a_worker_in_reserve_becomes_the_watcher() {
        let leadership = Arc::new(Leadership::default());
        let first = leadership.first_term();
        let watcher = start_worker(&leadership);
        wait_until_watched(&leadership);
        let reserve = start_worker(&leadership);
        while sync::lock(&leadership.roles).reserves == 0 {
            thread::yield_now();
        }
        assert!(leadership.begin(&first));
        let second = watcher.recv().unwrap().unwrap();
        assert!(!leadership.lacks_watcher());
        wait_until_watched(&leadership);
        assert!(leadership.begin(&second));
        reserve.recv().unwrap().unwrap();
    }

    #[test]
    fn workers_beyond_the_reserve_end() {
        let leadership = Arc::new(Leadership::default());
        let _watcher = start_worker(&leadership);
        wait_until_watched(&leadership);
        let _reserves: Vec<_> = (0..MAX_RESERVES).map(|_| start_worker(&leadership)).collect();
        while sync::lock(&leadership.roles).reserves < MAX_RESERVES {
            thread::yield_now();
        }
        assert!(leadership.wait_to_lead(|| true).is_none());
    }
}

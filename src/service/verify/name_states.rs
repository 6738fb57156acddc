//! Looks up, when a caller asks, whether the names of locks still lead to their disks.
//!
//! A lookup may hang, and any user may ask. So each lookup counts as a request of the user that
//! asks ([`crate::service::io::executor`]). Names are looked up in batches, each on one worker
//! thread, and one name by at most one thread at a time for ordinary users and one for the
//! administrator. A batch that makes no progress is abandoned, and its other names are looked up
//! one by one. A name whose lookup hangs is not looked up again before that lookup returns; its
//! state is unknown meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::lock::Lock;
use crate::lock::mount::{Mount, Mounts};
use crate::lock::request::{Asked, Work};
use crate::lock::resolve::name_state::{CheckName, NameState};
use crate::service::io::executor::Executor;
use crate::sync;

/// The time limit of one question. A name that is not looked up by then is unknown.
const LIMIT: Duration = Duration::from_secs(5);
/// A lookup on a local file system that takes this long hangs. Remote ones have more time:
/// [`crate::service::io::mount_gate`] knows whether they respond, and may wait for them.
const HUNG: Duration = Duration::from_secs(1);
/// How many names one thread looks up, one after the other.
const BATCH: usize = 64;
/// How many batches of one question are looked up at a time.
const BATCHES: usize = 4;

/// The states that were found, by name.
type Found = Arc<Mutex<HashMap<CheckName, NameState>>>;

/// The names that are being looked up.
#[derive(Debug)]
pub(in crate::service) struct NameChecks {
    running: Mutex<Running>,
    /// Notified when a lookup ends.
    ended: Notify,
    /// [`CheckName::perform`], except in tests.
    look_up: fn(CheckName) -> Option<NameState>,
}

#[derive(Debug, Default)]
struct Running {
    last: u64,
    /// Each with its number and the time from which it counts as hung. The flag separates lookups
    /// for ordinary users, which may have to wait for a permit, from the administrator's, which
    /// they must not delay.
    checks: HashMap<(CheckName, bool), (u64, Instant)>,
}

impl Default for NameChecks {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            ended: Notify::new(),
            look_up: |check: CheckName| check.perform(),
        }
    }
}

/// Whether a name may be looked up now.
enum Admission {
    Now(Mark),
    /// Another thread is looking it up.
    Later,
    /// The lookup in another thread hangs.
    Never,
}

/// Marks a name as being looked up, until it is dropped.
#[derive(Debug)]
struct Mark {
    checks: Arc<NameChecks>,
    name: (CheckName, bool),
    number: u64,
}

impl Mark {
    /// Allows other threads to look the name up, although this one may hang there.
    fn remove(&self) {
        let mut running = sync::lock(&self.checks.running);
        if running.checks.get(&self.name).is_some_and(|(number, _)| *number == self.number) {
            running.checks.remove(&self.name);
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.remove();
    }
}

impl NameChecks {
    fn admit(
        self: &Arc<Self>,
        check: &CheckName,
        (is_ordinary, patience): (bool, Duration),
    ) -> Admission {
        let mut running = sync::lock(&self.running);
        let name = (check.clone(), is_ordinary);
        match running.checks.get(&name) {
            Some((_, hangs_at)) if Instant::now() >= *hangs_at => return Admission::Never,
            Some(_) => return Admission::Later,
            None => {}
        }
        running.last += 1;
        let number = running.last;
        running.checks.insert(name.clone(), (number, Instant::now() + patience));
        Admission::Now(Mark { checks: Arc::clone(self), name, number })
    }

    /// Removes names from the front of a list for one thread, if they may be looked up now. Names
    /// whose lookup hangs are dropped, and those whose lookup is in progress go to the end of the
    /// list.
    fn batch(
        self: &Arc<Self>,
        names: &mut VecDeque<CheckName>,
        size: usize,
        how: (bool, Duration),
    ) -> Arc<Batch> {
        let mut marks = Vec::new();
        for _ in 0..names.len().min(2 * BATCH) {
            if marks.len() == size {
                break;
            }
            let Some(name) = names.pop_front() else { break };
            match self.admit(&name, how) {
                Admission::Now(mark) => marks.push(Arc::new(mark)),
                Admission::Later => names.push_back(name),
                Admission::Never => {}
            }
        }
        Arc::new(Batch { marks, ..Batch::default() })
    }
}

/// Names that one thread looks up, one after the other.
#[derive(Debug, Default)]
struct Batch {
    marks: Vec<Arc<Mark>>,
    /// How many were looked up.
    done: AtomicUsize,
    /// Set to make the thread stop before the next name.
    is_stopped: AtomicBool,
}

impl Batch {
    /// Stops the thread before its next lookup. Returns the names that are not looked up, which
    /// other threads may look up from now on; a single name is not returned, since its lookup may
    /// hang.
    fn stop(&self) -> Vec<CheckName> {
        self.is_stopped.store(true, Ordering::Release);
        if self.marks.len() < 2 {
            return Vec::new();
        }
        let left = self.marks.iter().skip(self.done.load(Ordering::Acquire));
        let left = left.inspect(|mark| mark.remove()).map(|mark| mark.name.0.clone()).collect();
        self.notify();
        left
    }

    /// Wakes the tasks that wait for a name of this batch.
    fn notify(&self) {
        if let Some(mark) = self.marks.first() {
            mark.checks.ended.notify_waiters();
        }
    }
}

/// Stops a batch whose result is no longer awaited.
struct StopOnDrop(Arc<Batch>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Looks up the names of a batch.
struct LookUp {
    batch: Arc<Batch>,
    found: Found,
}

impl Work for LookUp {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        self.batch.marks.iter().flat_map(|mark| mark.name.0.asks()).collect()
    }

    fn perform(self) {
        let Self { batch, found } = self;
        for mark in &batch.marks {
            if batch.is_stopped.load(Ordering::Acquire) {
                break;
            }
            let check = mark.name.0.clone();
            if let Some(state) = (mark.checks.look_up)(check.clone()) {
                sync::lock(&found).insert(check, state);
            }
            mark.remove();
            batch.done.fetch_add(1, Ordering::AcqRel);
        }
        // A single name that was abandoned as hung may be looked up again.
        batch.marks.iter().for_each(|mark| mark.remove());
        batch.notify();
    }
}

/// The lookup of one group of names for a user.
struct Group {
    checks: Arc<NameChecks>,
    storage: Arc<Executor>,
    uid: u32,
    /// How long to wait for the next name.
    patience: Duration,
    found: Found,
}

impl Group {
    async fn look_up(self, names: Vec<CheckName>, permits: Arc<Semaphore>) {
        // The semaphore is never closed.
        let Ok(_permit) = permits.acquire_owned().await else { return };
        let (mut names, mut size) = (VecDeque::from(names), BATCH);
        // The administrator and the user that this instance runs as have no quota.
        let is_ordinary = self.uid != 0 && self.uid != rustix::process::geteuid().as_raw();
        while !names.is_empty() {
            let ended = self.checks.ended.notified();
            tokio::pin!(ended);
            // Enabled before the marks are read, so that no lookup ends unnoticed.
            ended.as_mut().enable();
            let batch = self.checks.batch(&mut names, size, (is_ordinary, self.patience));
            if batch.marks.is_empty() {
                let _ = timeout(HUNG, ended).await;
                continue;
            }
            let left = self.run(batch).await;
            if !left.is_empty() {
                // A lookup hangs or is refused: one by one shows which.
                size = 1;
                left.into_iter().rev().for_each(|name| names.push_front(name));
            }
        }
    }

    /// Looks up a batch. Returns the names that were not looked up and may be retried.
    async fn run(&self, batch: Arc<Batch>) -> Vec<CheckName> {
        let _stop = StopOnDrop(Arc::clone(&batch));
        let look_up = LookUp { batch: Arc::clone(&batch), found: Arc::clone(&self.found) };
        let (storage, uid) = (Arc::clone(&self.storage), self.uid);
        // In a task of its own: a hung request is counted for as long as it hangs.
        let mut run = tokio::spawn(async move { storage.run_for(uid, look_up).await });
        let mut before = 0;
        loop {
            match timeout(self.patience, &mut run).await {
                Ok(Ok(Ok(()))) => return Vec::new(),
                // The request was refused, or the thread panicked.
                Ok(_) => return batch.stop(),
                Err(_) => {}
            }
            let done = batch.done.load(Ordering::Acquire);
            if done == std::mem::replace(&mut before, done) {
                return batch.stop();
            }
        }
    }
}

/// A user's question about the names of some locks.
#[derive(Debug)]
pub struct NameQuestion {
    uid: u32,
    /// In the order of the locks.
    checks: Vec<Option<CheckName>>,
    /// Each name once.
    groups: BTreeMap<GroupKey, Vec<CheckName>>,
}

/// The order and the separation of groups, so that the names of one user or mount cannot keep those
/// of others from being looked up: first the administrator's locks, then the asking user's, then
/// the rest.
type GroupKey = (bool, bool, u32, Option<NameMount>);

/// The mount that a name is on if no link leads elsewhere, and whether it is remote.
type NameMount = (u64, bool);

impl NameQuestion {
    /// Creates a question about the names of these locks. Accesses no file system.
    pub fn new<'l>(uid: u32, locks: impl IntoIterator<Item = &'l Lock>) -> Self {
        let mounts = Mounts::current().unwrap_or_default();
        let place = |mount: &Mount| (mount.id, mount.is_remote());
        let mut question = Self { uid, checks: Vec::new(), groups: BTreeMap::new() };
        let mut seen = HashSet::new();
        for lock in locks {
            let check = CheckName::new(&lock.want);
            if let (Some(check), Some(path)) = (&check, &lock.want.path)
                && seen.insert(check.clone())
            {
                let owner = lock.owner.uid;
                let key = (owner != 0, owner != uid, owner, mounts.of(path).map(place));
                question.groups.entry(key).or_default().push(check.clone());
            }
            question.checks.push(check);
        }
        question
    }
}

/// The answer to a [`NameQuestion`].
#[derive(Debug)]
pub struct NameAnswer {
    checks: Vec<Option<CheckName>>,
    found: Found,
}

impl NameAnswer {
    /// Returns the states of the names in the order of the locks; `None` where a disk has no name
    /// or the state is not known in time.
    #[must_use]
    pub fn states(&self) -> Vec<Option<NameState>> {
        let found = sync::lock(&self.found);
        self.checks.iter().map(|check| found.get(check.as_ref()?).copied()).collect()
    }
}

pub(in crate::service) async fn answer(
    checks: &Arc<NameChecks>,
    storage: &Arc<Executor>,
    question: NameQuestion,
) -> NameAnswer {
    let (found, permits) = (Found::default(), Arc::new(Semaphore::new(BATCHES)));
    let mut running = JoinSet::new();
    for ((_, _, _, place), names) in question.groups {
        let is_remote = place.is_some_and(|(_, is_remote)| is_remote);
        let group = Group {
            checks: Arc::clone(checks),
            storage: Arc::clone(storage),
            uid: question.uid,
            patience: if is_remote { LIMIT } else { HUNG },
            found: Arc::clone(&found),
        };
        running.spawn(group.look_up(names, Arc::clone(&permits)));
    }
    let all = async { while running.join_next().await.is_some() {} };
    // At the limit, the answer has what was found until then.
    let _ = timeout(LIMIT, all).await;
    NameAnswer { checks: question.checks, found }
}

#[cfg(test)]
mod tests;

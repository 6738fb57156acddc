//! Worker threads that close the descriptors that callers passed.
//!
//! # Why a close can block
//!
//! The sender of a descriptor can make `close(2)` block for as long as it chooses, uninterruptibly:
//!
//! - FUSE sends a request to its server on *every* close of a descriptor (`flush`), not only on the
//!   last one. So do an overlay with a layer on FUSE, and most network file systems.
//! - The last close of an open file *releases* it. A socket with `SO_LINGER` waits for its peer.
//!   The release of a pipe or of a TCP socket takes a lock that another thread of the sender holds
//!   while it copies data from its memory, which may be a mapped file of FUSE. The release of any
//!   file that can be polled, such as a pidfd, takes the lock of each epoll instance that watches
//!   it.
//!
//! Only a regular file on a local file system has neither (see [`OpenFile::is_local_file`]).
//!
//! # Bounds
//!
//! Each user has threads of its own ([`THREADS`], root more), so that descriptors of one user never
//! wait for those of another. One thread of each user only sorts: it closes local files, and leaves
//! all other descriptors to the other threads of that user. So a file on a local disk, and an OFD
//! lock that the descriptor keeps alive, are released even if all other descriptors of that user
//! hang.
//!
//! Descriptors that are not closed yet are counted for each user and in all. While a user has too
//! many, calls of this user that pass descriptors are refused before any work is done for them
//! ([`check`]), and their descriptors are not received (`admission/incoming/discard`). Descriptors of calls
//! that are refused for another reason are closed by the same threads, and count. Root, and the
//! user that this service runs as, have no limit.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, geteuid, getrlimit};

use super::passed::OpenFile;
use crate::lock::mount::Mounts;
use crate::sync;

/// The user that sent a descriptor; `None` if it is unknown.
pub type User = Option<u32>;

/// The maximum number of threads of one user, including the one that sorts.
const THREADS: usize = 4;
/// The maximum number of threads of root, and of the user that this service runs as.
const THREADS_PRIVILEGED: usize = 32;
/// The maximum number of threads of all other users together.
const THREADS_TOTAL: usize = 128;
/// How many descriptors of one user may wait to be closed or hang before this user's calls may pass
/// no more; fewer if few descriptors can be open.
const PER_USER: usize = 512;
/// How many descriptors of all users but root may wait to be closed or hang before their calls may
/// pass no more; fewer if few descriptors can be open.
const TOTAL: usize = 8192;
/// How long a thread waits for the next descriptor before it ends.
const IDLE: Duration = Duration::from_secs(10);
/// The stack size of such a thread, in bytes.
const STACK: usize = 256 << 10;

/// Queues a descriptor to be closed. Never blocks.
pub(in crate::lock) fn close(fd: OwnedFd, user: User) {
    CLOSER.close(fd, user);
}

/// The error of a user that has too many descriptors that are not closed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// The limit that is exceeded.
    pub limit: usize,
    /// Whether it is the limit of all users together.
    pub in_all: bool,
}

/// Checks that a user may pass `more` further descriptors.
///
/// # Errors
///
/// [`Excess`] while too many descriptors of this user, or of all users, wait to be closed or hang.
pub fn check(user: User, more: usize) -> Result<(), Excess> {
    if more == 0 || is_privileged(user) {
        return Ok(());
    }
    let (per_user, total) = limits();
    let state = CLOSER.state();
    let own = state.users.get(&user).map_or(0, Backlog::len);
    let all: usize = state.ordinary().map(|(_, backlog)| backlog.len()).sum();
    // A user without a backlog may pass as many as one message can have.
    if own > 0 && own + more > per_user {
        Err(Excess { limit: per_user, in_all: false })
    } else if all > total {
        Err(Excess { limit: total, in_all: true })
    } else {
        Ok(())
    }
}

/// Whether some user has so many descriptors that are not closed yet that [`check`] may soon refuse
/// more.
#[must_use]
pub fn is_near_limit() -> bool {
    let state = CLOSER.state();
    if state.users.is_empty() {
        return false;
    }
    let (per_user, total) = limits();
    let (mut most, mut all) = (0, 0);
    for (_, backlog) in state.ordinary() {
        most = backlog.len().max(most);
        all += backlog.len();
    }
    most > per_user / 2 || all > total / 2
}

/// Waits until every descriptor is closed, but no longer than `patience`. Returns whether they are.
///
/// A descriptor that is left may delay an `execve(2)`, which ends all other threads and closes open
/// files. A thread that waits for FUSE is in an interruptible state first; once it is interrupted,
/// it continues to wait uninterruptibly.
#[must_use]
pub fn drain(patience: Duration) -> bool {
    let left = |state: &mut State| !state.users.is_empty() || state.tracked > 0;
    let waited = CLOSER.done.wait_timeout_while(CLOSER.state(), patience, left);
    let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
    drop(state);
    !timeout.timed_out()
}

/// Calls `release`, which may release a file and so block, and counts it for [`drain`].
pub fn tracked<T>(release: impl FnOnce() -> T) -> T {
    CLOSER.state().tracked += 1;
    let released = release();
    CLOSER.state().tracked -= 1;
    CLOSER.done.notify_all();
    released
}

fn is_privileged(user: User) -> bool {
    user == Some(0) || user == Some(geteuid().as_raw())
}

/// Returns the limits on descriptors that are not closed yet, of one user and of all.
fn limits() -> (usize, usize) {
    static LIMITS: OnceLock<(usize, usize)> = OnceLock::new();
    *LIMITS.get_or_init(|| {
        let open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let open = usize::try_from(open).unwrap_or(usize::MAX);
        ((open / 4).clamp(1, PER_USER), (open / 2).clamp(1, TOTAL))
    })
}

static CLOSER: Closer = Closer {
    state: Mutex::new(State { users: BTreeMap::new(), threads: 0, busy: 0, tracked: 0 }),
    more: Condvar::new(),
    done: Condvar::new(),
};

/// The threads that close descriptors.
struct Closer {
    state: Mutex<State>,
    /// Signalled when there is a job.
    more: Condvar,
    /// Signalled when a job is done.
    done: Condvar,
}

struct State {
    /// The users with descriptors that are not closed yet.
    users: BTreeMap<User, Backlog>,
    threads: usize,
    /// The number of threads that are executing a job.
    busy: usize,
    /// The number of other threads that are releasing a file, see [`tracked`].
    tracked: usize,
}

/// The descriptors of one user that are not closed yet.
#[derive(Debug, Default)]
struct Backlog {
    /// Descriptors that are not sorted yet.
    incoming: VecDeque<OwnedFd>,
    /// Descriptors whose close may block.
    blocking: VecDeque<OwnedFd>,
    /// The number of threads that are sorting, or closing a local file.
    sorting: usize,
    /// The number of threads that are closing descriptors that may block.
    closing: usize,
}

/// The next job for a descriptor.
enum Job {
    Sort(OwnedFd),
    Close(OwnedFd),
}

impl Backlog {
    fn len(&self) -> usize {
        self.incoming.len() + self.blocking.len() + self.threads()
    }

    fn threads(&self) -> usize {
        self.sorting + self.closing
    }

    /// Whether a thread may close a descriptor that may block: one thread is reserved for sorting.
    fn may_close(&self, threads: usize) -> bool {
        !self.blocking.is_empty() && self.closing + 1 < threads
    }

    fn has_job(&self, threads: usize) -> bool {
        let free = self.threads() < threads;
        free && (!self.incoming.is_empty() || self.may_close(threads))
    }

    fn next(&mut self, threads: usize) -> Option<Job> {
        if !self.has_job(threads) {
            return None;
        }
        if self.may_close(threads) {
            self.closing += 1;
            return self.blocking.pop_front().map(Job::Close);
        }
        self.sorting += 1;
        self.incoming.pop_front().map(Job::Sort)
    }
}

impl State {
    fn ordinary(&self) -> impl Iterator<Item = (&User, &Backlog)> {
        self.users.iter().filter(|(user, _)| !is_privileged(**user))
    }

    /// Returns a user that has a job for a thread, and how many threads this user may occupy.
    fn waiting(&self) -> Option<(User, usize)> {
        let occupied: usize = self.ordinary().map(|(_, backlog)| backlog.threads()).sum();
        self.users.iter().find_map(|(user, backlog)| {
            let threads = match is_privileged(*user) {
                true => THREADS_PRIVILEGED,
                false if occupied < THREADS_TOTAL => THREADS,
                false => 0,
            };
            backlog.has_job(threads).then_some((*user, threads))
        })
    }

    /// Removes and returns the next job.
    fn next(&mut self) -> Option<(User, Job)> {
        let (user, threads) = self.waiting()?;
        let job = self.users.get_mut(&user)?.next(threads)?;
        self.busy += 1;
        Some((user, job))
    }

    /// Records that a thread has finished a job; `left` is a descriptor whose close may block.
    fn done(&mut self, user: User, was_sorting: bool, left: Option<OwnedFd>) {
        self.busy -= 1;
        let Some(backlog) = self.users.get_mut(&user) else { return };
        let count = if was_sorting { &mut backlog.sorting } else { &mut backlog.closing };
        *count -= 1;
        backlog.blocking.extend(left);
        if backlog.len() == 0 {
            self.users.remove(&user);
        }
    }
}

impl Closer {
    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    fn close(&'static self, fd: OwnedFd, user: User) {
        let mut state = self.state();
        state.users.entry(user).or_default().incoming.push_back(fd);
        self.assign(state);
    }

    /// Assigns a job to a thread, if there is a job.
    fn assign(&'static self, mut state: MutexGuard<'_, State>) {
        if state.waiting().is_none() {
            return;
        }
        if state.threads > state.busy {
            // This thread is idle, or is about to look for a job.
            self.more.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let builder = thread::Builder::new().name("closer".to_owned()).stack_size(STACK);
        if builder.spawn(|| self.run()).is_err() {
            // Another thread closes the descriptor, or the one that the next descriptor starts.
            self.state().threads -= 1;
        }
    }

    fn run(&'static self) {
        loop {
            let mut state = self.state();
            let Some((user, job)) = state.next() else {
                let waited = self.more.wait_timeout(state, IDLE);
                let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                if timeout.timed_out() && state.waiting().is_none() {
                    state.threads -= 1;
                    return;
                }
                continue;
            };
            // This thread may never return from the job.
            self.assign(state);
            match job {
                Job::Sort(fd) => {
                    let left = close_if_local(fd);
                    self.state().done(user, true, left);
                }
                Job::Close(fd) => {
                    drop(fd);
                    self.state().done(user, false, None);
                }
            }
            self.done.notify_all();
        }
    }
}

/// Closes a descriptor if that sends requests to this host's kernel only; returns any other one.
fn close_if_local(fd: OwnedFd) -> Option<OwnedFd> {
    let open_file = OpenFile::at(fd.as_fd());
    let mounts = Mounts::current();
    let local = match (open_file, mounts) {
        (Ok(open_file), Ok(mounts)) => open_file.is_local_file(&mounts),
        _ => false,
    };
    (!local).then_some(fd)
}

#[cfg(test)]
mod tests;

//! Admission control for local file systems: one that hangs, since it is frozen or a scanner does not
//! answer, must not get all storage threads.
//!
//! A request that hangs in the kernel keeps its thread until it gets an answer, and can't be taken back.
//! So only so many requests at a time are in progress on one mount, and for one user. A further one
//! waits for one of them to end; it is refused after [`PATIENCE`], or at once if one of them has been
//! without an answer for that long. Healthy storage answers in microseconds, so that nothing is refused
//! there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::lock::mount::Mount;
use crate::lock::text::escape::shown_path;
use crate::service::Error;
use crate::service::io::mount_gate::{PATIENCE, Silent, locked};

/// Requests at a time on one mount, or on the same several ones: on which of them a request hangs is
/// not known, and the others must not be taken for hung.
const PER_MOUNT: usize = 32;
/// Requests at a time of one ordinary user.
const PER_USER: usize = 8;
/// Requests at a time of all ordinary users.
const ORDINARY: usize = 24;
/// Requests at a time in all. Less than there are threads (`daemon`).
const TOTAL: usize = 96;

/// The requests that are in progress on local mounts.
#[derive(Debug, Default)]
pub(in crate::service) struct Local {
    state: Mutex<State>,
    ended: Notify,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    running: BTreeMap<u64, Running>,
}

#[derive(Debug)]
struct Running {
    mounts: Vec<(u64, PathBuf)>,
    /// The ordinary user that it is for.
    user: Option<u32>,
    begun: Instant,
}

impl State {
    /// Enters a request.
    ///
    /// # Errors
    ///
    /// The mount of the oldest request in its way, and for how long that has been without an answer.
    fn enter(&mut self, mounts: &[(u64, PathBuf)], user: Option<u32>) -> Result<u64, Silent> {
        self.check(mounts, user, None)?;
        self.last += 1;
        let running = Running { mounts: mounts.to_vec(), user, begun: Instant::now() };
        self.running.insert(self.last, running);
        Ok(self.last)
    }

    /// Enters a request for other mounts than before, from now on. Returns whether it is there.
    fn move_to(&mut self, number: u64, mounts: &[(u64, PathBuf)]) -> bool {
        let Some(Running { mounts: before, user, .. }) = self.running.get(&number) else {
            return false;
        };
        if before == mounts {
            return true;
        }
        if self.check(mounts, *user, Some(number)).is_err() {
            return false;
        }
        if let Some(running) = self.running.get_mut(&number) {
            running.mounts = mounts.to_vec();
        }
        true
    }

    /// Checks that there is room for a request, beside all but the one with the number `except`.
    ///
    /// # Errors
    ///
    /// As for [`Self::enter`].
    fn check(
        &self,
        mounts: &[(u64, PathBuf)],
        user: Option<u32>,
        except: Option<u64>,
    ) -> Result<(), Silent> {
        let others = self.running.iter().filter(|(number, _)| Some(**number) != except);
        let running = || others.clone().map(|(_, running)| running);
        let mut blocking: Option<&Running> = None;
        let mut limit = |most: usize, counts: &dyn Fn(&Running) -> bool| {
            let mut counted = running().filter(|running| counts(running));
            // In the order in which they began.
            let oldest = counted.next();
            if 1 + counted.count() >= most && blocking.is_none() {
                blocking = oldest;
            }
        };
        limit(TOTAL, &|_| true);
        limit(PER_MOUNT, &|running| running.mounts == mounts);
        if user.is_some() {
            limit(PER_USER, &|running| running.user == user);
            limit(ORDINARY, &|running| running.user.is_some());
        }
        if let Some(Running { mounts, begun, .. }) = blocking {
            let points: Vec<String> = mounts.iter().map(|(_, point)| shown_path(point)).collect();
            return Err(Silent { mount: points.join(" or "), time: begun.elapsed() });
        }
        Ok(())
    }
}

impl Local {
    /// Enters a request now, if there are not too many.
    pub(in crate::service) fn try_admit(
        self: &Arc<Self>,
        on: &[Mount],
        user: Option<u32>,
    ) -> Option<Entered> {
        self.enter(&keys(on), user).ok()
    }

    /// Enters a request, once there are not too many. Waits until `until` at most.
    ///
    /// # Errors
    ///
    /// [`Error::Silent`].
    pub(in crate::service) async fn admit(
        self: &Arc<Self>,
        on: &[Mount],
        user: Option<u32>,
        until: tokio::time::Instant,
    ) -> Result<Entered, Error> {
        let mounts = keys(on);
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Before it is tried, so that the end of a request in between is not missed.
            ended.as_mut().enable();
            let silent = match self.enter(&mounts, user) {
                Ok(entered) => return Ok(entered),
                Err(silent) => silent,
            };
            let left = PATIENCE.saturating_sub(silent.time);
            let hung = tokio::time::Instant::now() + left;
            if left.is_zero() || timeout_at(hung.min(until), ended).await.is_err() {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let time = silent.time + left.min(PATIENCE);
                return Err(Error::Silent(Silent { time, ..silent }));
            }
        }
    }

    /// How many requests were refused.
    pub(in crate::service) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn enter(
        self: &Arc<Self>,
        mounts: &[(u64, PathBuf)],
        user: Option<u32>,
    ) -> Result<Entered, Silent> {
        let number = locked(&self.state).enter(mounts, user)?;
        Ok(Entered { local: Arc::clone(self), number })
    }
}

fn keys(mounts: &[Mount]) -> Vec<(u64, PathBuf)> {
    mounts.iter().map(|mount| (mount.dev, mount.point.clone())).collect()
}

/// A request in progress, until it is dropped.
#[derive(Debug)]
pub(in crate::service) struct Entered {
    local: Arc<Local>,
    number: u64,
}

impl Entered {
    /// Has the request count for these mounts instead, if there are not too many on them. Returns
    /// whether it does.
    pub(in crate::service) fn move_to(&mut self, on: &[Mount]) -> bool {
        let moved = locked(&self.local.state).move_to(self.number, &keys(on));
        if moved {
            // There is room where it was.
            self.local.ended.notify_waiters();
        }
        moved
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        locked(&self.local.state).running.remove(&self.number);
        self.local.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(dev: u64) -> Vec<(u64, PathBuf)> {
        vec![(dev, PathBuf::from(format!("/mnt/{dev}")))]
    }

    fn enter_all(state: &mut State, count: usize, dev: u64, user: Option<u32>) -> usize {
        (0..count).filter(|_| state.enter(&mount(dev), user).is_ok()).count()
    }

    #[test]
    fn one_user_and_one_mount_get_their_share_and_root_is_left_some() {
        let mut state = State::default();
        assert_eq!(enter_all(&mut state, 20, 1, Some(7)), PER_USER);
        assert_eq!(state.enter(&mount(2), Some(7)).unwrap_err().mount, "/mnt/1");
        for user in 8..20 {
            enter_all(&mut state, 20, 1, Some(user));
        }
        assert_eq!(state.running.len(), ORDINARY);
        assert_eq!(enter_all(&mut state, 90, 1, None), PER_MOUNT - ORDINARY);
        assert_eq!(enter_all(&mut state, 90, 2, None), PER_MOUNT);
        assert_eq!(enter_all(&mut state, 90, 3, None), PER_MOUNT);
        assert_eq!(enter_all(&mut state, 90, 4, None), TOTAL - 3 * PER_MOUNT);
        assert_eq!(state.enter(&mount(5), None).unwrap_err().mount, "/mnt/1");
        // One that is led to another mount counts there.
        let led = state.enter(&mount(4), None).unwrap_err();
        assert_eq!(led.mount, "/mnt/1");
        let first = *state.running.keys().next().unwrap();
        assert!(!state.move_to(first, &mount(2)) && state.running[&first].mounts == mount(1));
        assert!(state.move_to(first, &mount(5)) && state.move_to(first, &mount(5)));
        assert_eq!(state.running[&first].mounts, mount(5));
        // What hangs on one of two mounts takes nothing from the other one.
        let (mut state, both) = (State::default(), [mount(1), mount(2)].concat());
        for _ in 0..PER_MOUNT {
            state.enter(&both, None).unwrap();
        }
        assert_eq!(state.enter(&both, None).unwrap_err().mount, "/mnt/1 or /mnt/2");
        state.enter(&mount(1), None).unwrap();
    }

    #[tokio::test]
    async fn a_request_waits_for_another_to_end_and_not_for_one_that_hangs() {
        let until = || tokio::time::Instant::now() + PATIENCE;
        let local = Arc::new(Local::default());
        let mut running: Vec<Entered> =
            (0..PER_USER).map(|_| local.enter(&mount(1), Some(7)).unwrap()).collect();
        let waiting = tokio::spawn({
            let local = Arc::clone(&local);
            async move { local.admit(&[], Some(7), until()).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        running.pop();
        let entered = waiting.await.unwrap().unwrap();
        // Those that are in progress have been without an answer for long.
        for running in locked(&local.state).running.values_mut() {
            running.begun = Instant::now().checked_sub(2 * PATIENCE).unwrap();
        }
        let refused = local.admit(&[], Some(7), until()).await.unwrap_err();
        assert!(matches!(refused, Error::Silent(Silent { mount, .. }) if mount == "/mnt/1"));
        assert_eq!(local.refused(), 1);
        local.admit(&[], None, until()).await.unwrap();
        drop((entered, running));
        assert!(locked(&local.state).running.is_empty());
    }
}

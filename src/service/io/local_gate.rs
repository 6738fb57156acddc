//! Admission control for local file systems: bounds the worker threads that a hung one can occupy,
//! for example one that is frozen or whose malware scanner does not respond.
//!
//! A request that hangs in the kernel occupies its thread until the kernel returns; it cannot be
//! cancelled. So the requests in progress are limited for each mount and for each user. A further
//! request waits for one of them to end; it is refused after [`PATIENCE`], or at once if one of
//! them has already been without an answer for that long. Healthy storage answers in microseconds,
//! so nothing is refused there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::lock::mount::Mount;
use crate::lock::text::escape::shown_path;
use crate::service::core::error::{Error, UnresponsiveMount};
use crate::service::io::mount_gate::PATIENCE;
use crate::sync;

/// The limit of requests on one mount, or on one set of mounts: if a request to several mounts
/// hangs, it is unknown on which of them, and the others must not be taken for hung.
const PER_MOUNT: usize = 32;
/// The limit of requests of one ordinary user.
const PER_USER: usize = 8;
/// The limit of requests of all ordinary users together.
const ORDINARY: usize = 24;
/// The limit of all requests. Lower than the number of worker threads (`daemon`).
const TOTAL: usize = 96;

/// The requests in progress on local mounts.
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
    /// The ordinary user on whose behalf the request runs.
    user: Option<u32>,
    begun: Instant,
}

impl State {
    /// Admits a request.
    ///
    /// # Errors
    ///
    /// The mount of the oldest request that blocks this one, and for how long that request has been
    /// without an answer.
    fn count_request(
        &mut self,
        mounts: &[(u64, PathBuf)],
        user: Option<u32>,
    ) -> Result<u64, UnresponsiveMount> {
        self.check(mounts, user, None)?;
        self.last += 1;
        let running = Running { mounts: mounts.to_vec(), user, begun: Instant::now() };
        self.running.insert(self.last, running);
        Ok(self.last)
    }

    /// Moves an admitted request to other mounts, if these have room. Returns whether it was moved.
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

    /// Checks that there is room for a request, not counting the request `except`.
    ///
    /// # Errors
    ///
    /// As for [`Self::count_request`].
    fn check(
        &self,
        mounts: &[(u64, PathBuf)],
        user: Option<u32>,
        except: Option<u64>,
    ) -> Result<(), UnresponsiveMount> {
        let others = self.running.iter().filter(|(number, _)| Some(**number) != except);
        let running = || others.clone().map(|(_, running)| running);
        let mut blocking: Option<&Running> = None;
        let mut limit = |most: usize, counts: &dyn Fn(&Running) -> bool| {
            let mut counted = running().filter(|running| counts(running));
            // In the order in which they started.
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
            return Err(UnresponsiveMount { mount: points.join(" or "), time: begun.elapsed() });
        }
        Ok(())
    }
}

impl Local {
    /// Admits a request if there is room now.
    pub(in crate::service) fn try_admit(
        self: &Arc<Self>,
        on: &[Mount],
        user: Option<u32>,
    ) -> Option<Entered> {
        self.count_request(&keys(on), user).ok()
    }

    /// Admits a request as soon as there is room. Waits until `until` at most.
    ///
    /// # Errors
    ///
    /// [`Error::UnresponsiveMount`].
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
            // Enabled before the attempt, so that no request ends unnoticed in between.
            ended.as_mut().enable();
            let unresponsive = match self.count_request(&mounts, user) {
                Ok(entered) => return Ok(entered),
                Err(unresponsive) => unresponsive,
            };
            let left = PATIENCE.saturating_sub(unresponsive.time);
            let hung = tokio::time::Instant::now() + left;
            if left.is_zero() || timeout_at(hung.min(until), ended).await.is_err() {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let time = unresponsive.time + left.min(PATIENCE);
                return Err(Error::UnresponsiveMount(UnresponsiveMount { time, ..unresponsive }));
            }
        }
    }

    /// Returns how many requests were refused.
    pub(in crate::service) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn count_request(
        self: &Arc<Self>,
        mounts: &[(u64, PathBuf)],
        user: Option<u32>,
    ) -> Result<Entered, UnresponsiveMount> {
        let number = sync::lock(&self.state).count_request(mounts, user)?;
        Ok(Entered { local: Arc::clone(self), number })
    }
}

fn keys(mounts: &[Mount]) -> Vec<(u64, PathBuf)> {
    mounts.iter().map(|mount| (mount.dev, mount.point.clone())).collect()
}

/// An admitted request, in progress until it is dropped.
#[derive(Debug)]
pub(in crate::service) struct Entered {
    local: Arc<Local>,
    number: u64,
}

impl Entered {
    /// Moves the request to these mounts, if they have room. Returns whether it was moved.
    pub(in crate::service) fn move_to(&mut self, on: &[Mount]) -> bool {
        let moved = sync::lock(&self.local.state).move_to(self.number, &keys(on));
        if moved {
            // The mount that the request left has room now.
            self.local.ended.notify_waiters();
        }
        moved
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        sync::lock(&self.local.state).running.remove(&self.number);
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
        (0..count).filter(|_| state.count_request(&mount(dev), user).is_ok()).count()
    }

    #[test]
    fn per_user_and_per_mount_limits_leave_room_for_root() {
        let mut state = State::default();
        assert_eq!(enter_all(&mut state, 20, 1, Some(7)), PER_USER);
        assert_eq!(state.count_request(&mount(2), Some(7)).unwrap_err().mount, "/mnt/1");
        for user in 8..20 {
            enter_all(&mut state, 20, 1, Some(user));
        }
        assert_eq!(state.running.len(), ORDINARY);
        assert_eq!(enter_all(&mut state, 90, 1, None), PER_MOUNT - ORDINARY);
        assert_eq!(enter_all(&mut state, 90, 2, None), PER_MOUNT);
        assert_eq!(enter_all(&mut state, 90, 3, None), PER_MOUNT);
        assert_eq!(enter_all(&mut state, 90, 4, None), TOTAL - 3 * PER_MOUNT);
        assert_eq!(state.count_request(&mount(5), None).unwrap_err().mount, "/mnt/1");
        // A request that is moved to another mount counts there.
        let led = state.count_request(&mount(4), None).unwrap_err();
        assert_eq!(led.mount, "/mnt/1");
        let first = *state.running.keys().next().unwrap();
        assert!(!state.move_to(first, &mount(2)) && state.running[&first].mounts == mount(1));
        assert!(state.move_to(first, &mount(5)) && state.move_to(first, &mount(5)));
        assert_eq!(state.running[&first].mounts, mount(5));
        // Hung requests to two mounts take no room from requests to one of the two.
        let (mut state, both) = (State::default(), [mount(1), mount(2)].concat());
        for _ in 0..PER_MOUNT {
            state.count_request(&both, None).unwrap();
        }
        assert_eq!(state.count_request(&both, None).unwrap_err().mount, "/mnt/1 or /mnt/2");
        state.count_request(&mount(1), None).unwrap();
    }

    #[tokio::test]
    async fn a_request_waits_for_a_running_request_but_not_for_a_hung_one() {
        let until = || tokio::time::Instant::now() + PATIENCE;
        let local = Arc::new(Local::default());
        let mut running: Vec<Entered> =
            (0..PER_USER).map(|_| local.count_request(&mount(1), Some(7)).unwrap()).collect();
        let waiting = tokio::spawn({
            let local = Arc::clone(&local);
            async move { local.admit(&[], Some(7), until()).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        running.pop();
        let entered = waiting.await.unwrap().unwrap();
        // The requests in progress have been without an answer for a long time.
        for running in sync::lock(&local.state).running.values_mut() {
            running.begun = Instant::now().checked_sub(2 * PATIENCE).unwrap();
        }
        let refused = local.admit(&[], Some(7), until()).await.unwrap_err();
        assert!(
            matches!(refused, Error::UnresponsiveMount(UnresponsiveMount { mount, .. }) if mount == "/mnt/1")
        );
        assert_eq!(local.refused(), 1);
        local.admit(&[], None, until()).await.unwrap();
        drop((entered, running));
        assert!(sync::lock(&local.state).running.is_empty());
    }
}

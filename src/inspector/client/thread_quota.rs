//! Bounds the threads of the service that have a query in progress, or wait for a worker.
//!
//! A requester has one query in progress at most, and a user can delay its reply. Waiting threads
//! are bounded, so that no user takes all threads of the thread pool. Requests that only send a
//! query wait on the event loop instead (`service`), and are hardly ever refused here.

use crate::inspector::requester::Requester;
use crate::sync::KeyedCounts;

/// The maximum number of threads of one ordinary requester. This is more than `service` allows one
/// user for local file systems.
const MAX_PER_REQUESTER: usize = 12;
/// Above this number of threads of all ordinary requesters, each requester may have only one.
const SOFT_MAX: usize = 32;
/// The maximum number of threads of all ordinary requesters. The thread pool has more (`daemon`).
const HARD_MAX: usize = 64;

/// The number of threads, by ordinary requester.
#[derive(Debug, Default)]
pub(super) struct ThreadQuota(KeyedCounts<Requester>);

impl ThreadQuota {
    /// Counts a thread. Returns `false` if there are too many. The service, libvirt and root have
    /// no limit.
    pub(super) fn reserve(&mut self, requester: Requester) -> bool {
        if requester.is_privileged() {
            return true;
        }
        let (own, all) = (self.0.of(&requester), self.0.total());
        let fits =
            if own == 0 { all < HARD_MAX } else { own < MAX_PER_REQUESTER && all < SOFT_MAX };
        if fits {
            self.0.increment(requester);
        }
        fits
    }

    /// Uncounts a thread.
    pub(super) fn release(&mut self, requester: Requester) {
        self.0.decrement(&requester);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve_all(quota: &mut ThreadQuota, requester: Requester) -> usize {
        (0..100).filter(|_| quota.reserve(requester)).count()
    }

    #[test]
    fn threads_are_bounded_and_each_requester_may_have_one() {
        let mut quota = ThreadQuota::default();
        assert_eq!(reserve_all(&mut quota, Requester::User(7)), MAX_PER_REQUESTER);
        assert_eq!(reserve_all(&mut quota, Requester::Callers(7)), MAX_PER_REQUESTER);
        assert_eq!(reserve_all(&mut quota, Requester::User(8)), SOFT_MAX - 2 * MAX_PER_REQUESTER);
        let others = (9..100).filter(|uid| quota.reserve(Requester::User(*uid))).count();
        assert_eq!(others, HARD_MAX - SOFT_MAX);
        for privileged in
            [Requester::User(0), Requester::Callers(0), Requester::Libvirt, Requester::Service]
        {
            assert_eq!(reserve_all(&mut quota, privileged), 100);
        }
        for _ in 0..MAX_PER_REQUESTER {
            quota.release(Requester::User(7));
        }
        assert!(quota.reserve(Requester::User(7)) && !quota.reserve(Requester::User(7)));
    }
}

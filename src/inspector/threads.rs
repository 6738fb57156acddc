//! How many threads of the service ask an inspector, or wait for their turn to ask.
//!
//! An asker has one question at a time, and how long it takes can be the choice of a user. Threads that
//! wait for it are bounded, so that no user takes them from others. Requests that do nothing but ask wait
//! on the event loop instead (`service`), and are hardly ever refused here.

use std::collections::HashMap;

use super::Asker;

/// Threads of one ordinary asker. More than `service` lets one user have with local file systems.
const PER_ASKER: usize = 12;
/// Threads of all ordinary askers. With more, each asker still has one.
const ORDINARY: usize = 32;
/// Threads of all ordinary askers, at most. Less than there are (`daemon`).
const TOTAL: usize = 64;

/// Threads that ask or wait, by ordinary asker.
#[derive(Debug, Default)]
pub(super) struct Threads(HashMap<Asker, usize>);

impl Threads {
    /// Enters a thread, unless there are too many. The service, libvirt and root have no limit.
    pub(super) fn enter(&mut self, asker: Asker) -> bool {
        if asker.is_privileged() {
            return true;
        }
        let own = self.0.get(&asker).copied().unwrap_or_default();
        let all: usize = self.0.values().sum();
        let fits = if own == 0 { all < TOTAL } else { own < PER_ASKER && all < ORDINARY };
        if fits {
            self.0.insert(asker, own + 1);
        }
        fits
    }

    /// Removes a thread that was entered.
    pub(super) fn leave(&mut self, asker: Asker) {
        if let Some(own) = self.0.get_mut(&asker) {
            *own -= 1;
            if *own == 0 {
                self.0.remove(&asker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter_all(threads: &mut Threads, asker: Asker) -> usize {
        (0..100).filter(|_| threads.enter(asker)).count()
    }

    #[test]
    fn threads_are_bounded_and_each_asker_has_one() {
        let mut threads = Threads::default();
        assert_eq!(enter_all(&mut threads, Asker::User(7)), PER_ASKER);
        assert_eq!(enter_all(&mut threads, Asker::Callers(7)), PER_ASKER);
        assert_eq!(enter_all(&mut threads, Asker::User(8)), ORDINARY - 2 * PER_ASKER);
        let others = (9..100).filter(|uid| threads.enter(Asker::User(*uid))).count();
        assert_eq!(others, TOTAL - ORDINARY);
        for privileged in [Asker::User(0), Asker::Callers(0), Asker::Front, Asker::Service] {
            assert_eq!(enter_all(&mut threads, privileged), 100);
        }
        for _ in 0..PER_ASKER {
            threads.leave(Asker::User(7));
        }
        assert!(threads.enter(Asker::User(7)) && !threads.enter(Asker::User(7)));
    }
}

//! Opens a file on which another program has a file lease (`F_SETLEASE`, `fcntl(2)`).
//!
//! An open breaks the lease: the kernel tells the holder to release it. With `O_NONBLOCK` the open
//! fails at once with `EAGAIN`, although a cooperative holder, such as Samba, releases the lease
//! within milliseconds. The kernel does not notify of the end of a lease, so the open is retried.
//! The number of retries and of threads that wait at once is bounded, since a holder may also
//! ignore the request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;

/// The backoff between two attempts, in milliseconds: about half a second in all.
const BACKOFF: [u64; 8] = [2, 5, 10, 20, 40, 80, 160, 160];
/// The maximum number of threads that wait for leases; the first attempt of others is their last.
const WAITERS: usize = 4;

static WAITING: AtomicUsize = AtomicUsize::new(0);

/// A permit to wait, until it is dropped.
struct Waiter;

impl Waiter {
    fn register() -> Option<Self> {
        let more = |waiting: usize| (waiting < WAITERS).then_some(waiting + 1);
        WAITING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a file; if a lease conflicts, retries until it is released or the backoff is used up.
///
/// # Errors
///
/// Errors of `open`; `EAGAIN` if the lease remains.
pub(in crate::lock) fn open_leased<T>(open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut outcome = open();
    if !matches!(outcome, Err(Errno::AGAIN)) {
        return outcome;
    }
    let Some(_waiter) = Waiter::register() else { return outcome };
    for pause in BACKOFF {
        sleep(Duration::from_millis(pause));
        outcome = open();
        if !matches!(outcome, Err(Errno::AGAIN)) {
            break;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn an_open_is_retried_a_bounded_number_of_times() {
        let tries = Cell::new(0);
        let after = |n: usize| {
            tries.set(0);
            open_leased(|| {
                tries.set(tries.get() + 1);
                if tries.get() > n { Ok(()) } else { Err(Errno::AGAIN) }
            })
        };
        assert_eq!((after(0), tries.get()), (Ok(()), 1));
        assert_eq!((after(2), tries.get()), (Ok(()), 3));
        assert_eq!((after(99), tries.get()), (Err(Errno::AGAIN), 1 + BACKOFF.len()));
        assert_eq!(open_leased(|| Err::<(), _>(Errno::ACCESS)), Err(Errno::ACCESS));
        let all: Vec<_> = (0..WAITERS).map(|_| Waiter::register()).collect();
        assert_eq!((after(2), tries.get()), (Err(Errno::AGAIN), 1));
        drop(all);
        assert_eq!(after(2), Ok(()));
    }
}

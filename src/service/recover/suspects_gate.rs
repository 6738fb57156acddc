//! Holds requests back while what damaged records name is being locked again.
//!
//! A disk of which not even the identity is known is locked by its name once the service serves. Another
//! owner's request must not come first; but no request waits for long, since storage may not answer.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// How long requests are held back at most.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// A gate that is open unless it was closed.
#[derive(Debug, Default)]
pub(in crate::service) struct Gate {
    is_closed: Mutex<bool>,
    threads: Condvar,
    tasks: Notify,
}

impl Gate {
    fn is_closed(&self) -> MutexGuard<'_, bool> {
        self.is_closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds requests back from now on.
    pub(in crate::service) fn close(&self) {
        *self.is_closed() = true;
    }

    /// Lets requests pass.
    pub(super) fn open(&self) {
        *self.is_closed() = false;
        self.threads.notify_all();
        self.tasks.notify_waiters();
    }

    /// Returns once the gate is open.
    pub(in crate::service) async fn pass(&self) {
        loop {
            // Created before the look, so that no opening is missed.
            let opened = self.tasks.notified();
            if !*self.is_closed() {
                return;
            }
            opened.await;
        }
    }

    /// As [`Self::pass`], for a thread that may block.
    pub(in crate::service) fn pass_here(&self) {
        let mut is_closed = self.is_closed();
        while *is_closed {
            is_closed = self.threads.wait(is_closed).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn requests_pass_once_the_gate_is_open() {
        let gate = Arc::new(Gate::default());
        gate.pass().await;
        gate.pass_here();
        gate.close();
        let task = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.pass().await }
        });
        let thread = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.pass_here()
        });
        tokio::task::yield_now().await;
        assert!(!task.is_finished() && !thread.is_finished());
        gate.open();
        task.await.unwrap();
        thread.join().unwrap();
    }
}

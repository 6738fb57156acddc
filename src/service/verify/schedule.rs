//! Periodic verification (audit) of the locks on remote storage.
//!
//! A server may drop a lock without notice: it has not heard from this host for too long, or it was
//! restarted; a file system in user space may lose one too. Locks on this host's own file systems
//! are kept by its kernel and need no audit.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::lock::request::{Asked, Work};
use crate::lock::{Lock, Proof};
use crate::service::io::mount_gate::is_remote;
use crate::service::verify::{Server, VerificationOutcome, Verifier, server};

/// Locks by the server that they depend on.
type ServerSchedule = BTreeMap<Server, Vec<u64>>;

impl Verifier {
    /// Verifies locks on remote storage every `verify_interval`, at once after a change of the
    /// settings, and when unresponsive storage responds again. Runs until the service ends.
    pub(in crate::service) async fn verify_periodically(self: Arc<Self>) {
        let mut running = JoinSet::new();
        let mut busy: Vec<Server> = Vec::new();
        let mut last = Instant::now();
        loop {
            let interval = self.state.lock().settings.verify_interval;
            let due = async {
                match interval {
                    Some(interval) => sleep_until(last + interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.executor.responds_again() => {}
                // Otherwise there is no task to wait for.
                Some(done) = running.join_next() => {
                    match done {
                        Ok(server) => busy.retain(|one| *one != server),
                        // A task that panicked does not return its server: all servers are verified
                        // again.
                        Err(error) => {
                            tracing::error!(%error, "cannot verify locks");
                            busy.clear();
                        }
                    }
                    continue;
                }
            }
            last = Instant::now();
            if interval.is_none() {
                continue;
            }
            let locks = self.state.lock().table.locks().cloned().collect();
            let find = FindRemoteLocks { locks };
            let Ok(schedule) = self.executor.run(find).await else { continue };
            for (server, locks) in schedule {
                // A server whose previous verification still runs is skipped.
                if !busy.contains(&server) {
                    busy.push(server.clone());
                    let verifier = Arc::clone(&self);
                    running.spawn(async move {
                        verifier.verify_server(locks).await;
                        server
                    });
                }
            }
        }
    }

    /// Verifies these locks; lost ones are retried from now on, as after a restart.
    async fn verify_server(self: &Arc<Self>, numbers: Vec<u64>) {
        let mut lost = Vec::new();
        for number in numbers {
            match self.verify(number).await {
                VerificationOutcome::Held => {}
                VerificationOutcome::Lost => lost.extend(self.state.held_lock(number)),
                // The server does not respond for the other locks either.
                VerificationOutcome::Unknown => break,
            }
        }
        self.verify_these(&lost);
    }
}

/// Finds the locks that depend on a remote server. Accesses none of the servers.
struct FindRemoteLocks {
    locks: Vec<Lock>,
}

impl Work for FindRemoteLocks {
    type Answer = ServerSchedule;

    fn asks(&self) -> Vec<Asked<'_>> {
        Vec::new()
    }

    fn perform(self) -> ServerSchedule {
        let mut schedule = ServerSchedule::new();
        // All other locks are unverified or lost; their verification is in progress already.
        for lock in self.locks.iter().filter(|lock| lock.proof == Proof::Verified) {
            if is_remote(&lock.want.asks()) {
                schedule.entry(server(lock)).or_default().push(lock.id);
            }
        }
        schedule
    }
}

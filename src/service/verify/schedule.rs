//! Periodic verification (audit) of the locks on remote storage.
//!
//! A server may drop a lock without notice: it has not heard from this host for too long, or it was
//! restarted; a file system in user space may lose one too. Locks on this host's own file systems
//! are kept by its kernel and need no audit.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::lock::request::{Asked, Work};
use crate::lock::{Lock, Proof};
use crate::service::Service;
use crate::service::verify::{Found, Server, server};

/// Locks by the server that they depend on.
type ServerSchedule = BTreeMap<Server, Vec<u64>>;

impl Service {
    /// Verifies locks on remote storage every `verify_interval`, at once after a change of the
    /// settings, and when unresponsive storage responds again. Runs until the service ends.
    pub async fn go_rounds(self) {
        let mut under_way = JoinSet::new();
        let mut busy: Vec<Server> = Vec::new();
        let mut last = Instant::now();
        loop {
            let interval = self.settings().verify_interval;
            let due = async {
                match interval {
                    Some(interval) => sleep_until(last + interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.storage().heard() => {}
                // Otherwise there is no task to wait for.
                Some(done) = under_way.join_next() => {
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
            let look = FindRemoteLocks { service: self.clone(), locks: self.locks() };
            let Ok(beats) = self.storage().run(look).await else { continue };
            for (server, locks) in beats {
                // A server whose previous verification still runs is skipped.
                if !busy.contains(&server) {
                    busy.push(server.clone());
                    let service = self.clone();
                    under_way.spawn(async move {
                        service.look_at(locks).await;
                        server
                    });
                }
            }
        }
    }

    /// Verifies these locks; lost ones are retried from now on, as after a restart.
    async fn look_at(&self, numbers: Vec<u64>) {
        let mut lost = Vec::new();
        for number in numbers {
            match self.verify(number).await {
                Found::There => {}
                Found::Lost => lost.extend(self.lock(number)),
                // The server does not respond for the other locks either.
                Found::Unknown => break,
            }
        }
        self.verify_these(&lost);
    }
}

/// Finds the locks that depend on a remote server. Accesses none of the servers.
struct FindRemoteLocks {
    service: Service,
    locks: Vec<Lock>,
}

impl Work for FindRemoteLocks {
    type Answer = ServerSchedule;

    fn asks(&self) -> Vec<Asked<'_>> {
        Vec::new()
    }

    fn perform(self) -> ServerSchedule {
        let mut beats = ServerSchedule::new();
        // All other locks are unverified or lost; their verification is in progress already.
        for lock in self.locks.iter().filter(|lock| lock.proof == Proof::Verified) {
            if self.service.storage().is_far(&lock.want.asks()) {
                beats.entry(server(lock)).or_default().push(lock.id);
            }
        }
        beats
    }
}

/// The interval if the configuration sets none.
pub(in crate::service) const INTERVAL: Duration = Duration::from_secs(30);

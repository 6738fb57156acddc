//! Rounds: looking now and then whether the locks are there that somebody else's storage could lose.
//!
//! A server may give a lock up without a word, when it has not heard of this host for too long, or
//! when it was started anew; and whoever serves a file system may simply forget one. What is on this
//! host's own file systems is kept by its kernel, and need not be looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::lock::request::{Asked, Work};
use crate::lock::{Lock, Proof};
use crate::service::Service;
use crate::service::verify::{Found, Server, server};

/// Locks by whom they have to be asked of.
type Beats = BTreeMap<Server, Vec<u64>>;

impl Service {
    /// Goes its rounds until the service ends: every so often as the settings say, at once when these
    /// have changed, and when storage answers again that did not.
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
                // Otherwise there is nothing to wait for here.
                Some(done) = under_way.join_next() => {
                    match done {
                        Ok(server) => busy.retain(|one| *one != server),
                        // It panicked, and is not known by name: what it did is done again.
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
            let look = Look { service: self.clone(), locks: self.locks() };
            let Ok(beats) = self.storage().run(look).await else { continue };
            for (server, locks) in beats {
                // Whoever takes longer than that is not asked twice at a time.
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

    /// Looks at these; what is lost is tried again from now on, as after a restart.
    async fn look_at(&self, numbers: Vec<u64>) {
        let mut lost = Vec::new();
        for number in numbers {
            match self.verify(number).await {
                Found::There => {}
                Found::Lost => lost.extend(self.lock(number)),
                // The others would not be found out about either.
                Found::Unknown => break,
            }
        }
        self.verify_these(&lost);
    }
}

/// Finds out which locks lie with others. Asks none of them.
struct Look {
    service: Service,
    locks: Vec<Lock>,
}

impl Work for Look {
    type Answer = Beats;

    fn asks(&self) -> Vec<Asked<'_>> {
        Vec::new()
    }

    fn perform(self) -> Beats {
        let mut beats = Beats::new();
        // Others are being looked at already, until they are there.
        for lock in self.locks.iter().filter(|lock| lock.proof == Proof::Verified) {
            if self.service.storage().is_far(&lock.want.asks()) {
                beats.entry(server(lock)).or_default().push(lock.id);
            }
        }
        beats
    }
}

/// How often, where nobody says.
pub(in crate::service) const INTERVAL: Duration = Duration::from_secs(30);

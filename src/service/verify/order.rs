//! The order in which locks are verified and acquired again.
//!
//! Until a lock of which only the record is left is acquired again, other programs and hosts can get
//! its disk. A user can make the lookup of its own disks slow, and has many of them. So the locks of
//! root and libvirt come first; those of other users follow in lanes, one for each user and device, of
//! which only some are in progress at a time. Their turns are in order of request, so a user with many
//! locks does not delay a user with few.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::{Found, Server, server};
use crate::lock::{Lock, OwnerId};
use crate::service::Service;
use crate::service::recover::suspects::SUSPECT;

/// How long until a lost lock is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long users' locks wait for those of root and libvirt, whose storage may hang.
const HEAD_START: Duration = Duration::from_secs(2);
/// How many locks of ordinary users are looked at at a time.
const AT_ONCE: usize = 4;
/// How long a lock has one of these turns. It is still looked at afterwards, beside the others.
const TURN: Duration = Duration::from_millis(500);

/// The numbers of locks that are looked at one after the other.
type Lane = Vec<u64>;

/// All lanes of some locks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Those of root and libvirt, one for each device.
    first: Vec<Lane>,
    /// Those of others, one for each user and device.
    then: Vec<Lane>,
}

impl Plan {
    fn new<'l>(locks: impl Iterator<Item = &'l Lock>, is_first: impl Fn(OwnerId) -> bool) -> Self {
        let mut first: BTreeMap<Server, Lane> = BTreeMap::new();
        let mut then: BTreeMap<(Server, OwnerUser), Lane> = BTreeMap::new();
        for lock in locks {
            let lane = if is_first(lock.owner) {
                first.entry(server(lock)).or_default()
            } else {
                then.entry((server(lock), user_of(lock.owner))).or_default()
            };
            lane.push(lock.id);
        }
        Self { first: first.into_values().collect(), then: then.into_values().collect() }
    }
}

/// The user of a lane; `None` for suspects.
type OwnerUser = Option<u32>;

/// The suspects' owner is root's, but their names are from records of any user.
fn user_of(owner: OwnerId) -> OwnerUser {
    (owner != SUSPECT).then_some(owner.uid)
}

/// Whether no quota applies to the owner's user: root, and the user whose instance this is. Libvirt's
/// owners are theirs.
fn is_first(owner: OwnerId) -> bool {
    user_of(owner).is_some_and(|uid| uid == 0 || uid == geteuid().as_raw())
}

impl Service {
    /// Looks at locks until none of them is lost. Returns at once.
    pub(super) fn verify_in_order<'l>(&self, locks: impl Iterator<Item = &'l Lock>) {
        let Plan { first, then } = Plan::new(locks, is_first);
        // Closed once the first round of each of the first lanes is over.
        let (over, mut all_over) = mpsc::channel::<()>(1);
        for lane in first {
            let (service, over) = (self.clone(), over.clone());
            tokio::spawn(async move {
                let lost = service.verify_lane(lane, None).await;
                drop(over);
                service.retry_lane(lost, None).await;
            });
        }
        drop(over);
        if then.is_empty() {
            return;
        }
        let service = self.clone();
        tokio::spawn(async move {
            // Where it takes too long, the others begin all the same.
            let _ = timeout(HEAD_START, all_over.recv()).await;
            let turns = Arc::new(Semaphore::new(AT_ONCE));
            for lane in then {
                let (service, turns) = (service.clone(), Arc::clone(&turns));
                tokio::spawn(async move {
                    let lost = service.verify_lane(lane, Some(&turns)).await;
                    service.retry_lane(lost, Some(&turns)).await;
                });
            }
        });
    }

    async fn retry_lane(&self, mut lost: Lane, turns: Option<&Semaphore>) {
        while !lost.is_empty() {
            sleep(AGAIN).await;
            lost = self.verify_lane(lost, turns).await;
        }
    }

    /// Looks at locks, one after the other. Returns those that are not there, or not known to be.
    async fn verify_lane(&self, lane: Lane, turns: Option<&Semaphore>) -> Lane {
        let mut lost = Lane::new();
        for number in lane {
            let looking = self.verify(number);
            let found = match turns {
                Some(turns) => in_turn(turns, looking).await,
                None => looking.await,
            };
            if found != Found::There {
                lost.push(number);
            }
        }
        lost
    }
}

/// Has something done in its turn, which ends after [`TURN`].
async fn in_turn<T>(turns: &Semaphore, done: impl Future<Output = T>) -> T {
    // It is never closed.
    let turn = turns.acquire().await.ok();
    tokio::pin!(done);
    if let Ok(done) = timeout(TURN, &mut done).await {
        return done;
    }
    drop(turn);
    done.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::model::identity::Identity;
    use crate::lock::model::lock::Stage;
    use crate::lock::{Mode, Proof, Want};
    use std::future::{pending, ready};
    use uuid::Uuid;

    fn lock(id: u64, owner: OwnerId, dev: u64) -> Lock {
        let want =
            Want::direct(format!("/{id}"), Identity::Inode { dev, ino: id }, Mode::Exclusive);
        Lock { id, owner, want, stage: Stage::Held, proof: Proof::Unverified, since: 0 }
    }

    #[test]
    fn locks_of_root_precede_those_of_users_and_suspects() {
        let of = |uid| OwnerId::new(uid, Uuid::from_u128(1));
        let (root, user, other) = (of(0), of(65534), of(5));
        let owners =
            [(user, 1), (user, 1), (SUSPECT, 1), (root, 1), (other, 1), (user, 2), (root, 2)];
        let locks: Vec<Lock> =
            (1..).zip(owners).map(|(id, (owner, dev))| lock(id, owner, dev)).collect();
        let is_first = |owner: OwnerId| user_of(owner) == Some(0);
        let plan = Plan::new(locks.iter(), is_first);
        assert_eq!(plan.first, [[4], [7]]);
        assert_eq!(plan.then, [vec![3], vec![5], vec![1, 2], vec![6]]);
    }

    #[tokio::test]
    async fn a_lookup_that_hangs_keeps_its_turn_for_a_bounded_time() {
        let turns = Arc::new(Semaphore::new(1));
        let hung = Arc::clone(&turns);
        let hung = tokio::spawn(async move { in_turn(&hung, pending::<()>()).await });
        tokio::task::yield_now().await;
        assert_eq!(turns.available_permits(), 0);
        in_turn(&turns, ready(())).await;
        assert!(!hung.is_finished());
        hung.abort();
    }
}

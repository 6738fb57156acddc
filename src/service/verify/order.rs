//! The order in which locks are verified and acquired again.
//!
//! Until a lock that only the state file remembers is acquired again, other programs and hosts can
//! lock its disk. A user can make the lookup of its own disks slow, and can have many of them. So
//! the locks of root and libvirt come first. The locks of other users follow in queues, one for
//! each user and device; a semaphore bounds how many of these are in progress at a time. The
//! semaphore is fair, which prevents starvation: a user with many locks does not delay a user with
//! few.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::{Server, VerificationOutcome, server};
use crate::lock::{Lock, OwnerId};
use crate::service::core::suspect::SUSPECT;
use crate::service::verify::Verifier;

/// The retry interval of a lost lock.
const AGAIN: Duration = Duration::from_secs(10);
/// How long the locks of users wait for the locks of root and libvirt, whose storage may hang.
const HEAD_START: Duration = Duration::from_secs(2);
/// How many locks of ordinary users are verified at a time.
const AT_ONCE: usize = 4;
/// How long a lock occupies one of these permits. Its verification goes on without it afterwards.
const PERMIT_TIME: Duration = Duration::from_millis(500);

/// The numbers of locks that are verified one after the other.
type LockGroup = Vec<u64>;

/// All queues of some locks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// The locks of root and libvirt, one queue for each device.
    first: Vec<LockGroup>,
    /// The locks of other users, one queue for each user and device.
    then: Vec<LockGroup>,
}

impl Plan {
    fn new<'l>(locks: impl Iterator<Item = &'l Lock>, is_first: impl Fn(OwnerId) -> bool) -> Self {
        let mut first: BTreeMap<Server, LockGroup> = BTreeMap::new();
        let mut then: BTreeMap<(Server, OwnerUser), LockGroup> = BTreeMap::new();
        for lock in locks {
            let group = if is_first(lock.owner) {
                first.entry(server(lock)).or_default()
            } else {
                then.entry((server(lock), user_of(lock.owner))).or_default()
            };
            group.push(lock.id);
        }
        Self { first: first.into_values().collect(), then: then.into_values().collect() }
    }
}

/// The user of a queue; `None` for suspects.
type OwnerUser = Option<u32>;

/// The suspects' owner belongs to root, but the names of suspects come from the damaged records of
/// any user's locks.
fn user_of(owner: OwnerId) -> OwnerUser {
    (owner != SUSPECT).then_some(owner.uid)
}

/// Whether the owner's user has no quota: root, and the user that this instance runs as. Libvirt's
/// owners belong to one of them.
fn is_first(owner: OwnerId) -> bool {
    user_of(owner).is_some_and(|uid| uid == 0 || uid == geteuid().as_raw())
}

impl Verifier {
    /// Verifies locks and retries until none of them is lost. Returns at once.
    pub(super) fn verify_in_order<'l>(self: &Arc<Self>, locks: impl Iterator<Item = &'l Lock>) {
        let Plan { first, then } = Plan::new(locks, is_first);
        // Closed once every queue of root and libvirt was verified once.
        let (over, mut all_over) = mpsc::channel::<()>(1);
        for group in first {
            let (verifier, over) = (Arc::clone(self), over.clone());
            tokio::spawn(async move {
                let lost = verifier.verify_group(group, None).await;
                drop(over);
                verifier.retry_group(lost, None).await;
            });
        }
        drop(over);
        if then.is_empty() {
            return;
        }
        let verifier = Arc::clone(self);
        tokio::spawn(async move {
            // If that takes too long, the others start all the same.
            let _ = timeout(HEAD_START, all_over.recv()).await;
            let permits = Arc::new(Semaphore::new(AT_ONCE));
            for group in then {
                let (verifier, permits) = (Arc::clone(&verifier), Arc::clone(&permits));
                tokio::spawn(async move {
                    let lost = verifier.verify_group(group, Some(&permits)).await;
                    verifier.retry_group(lost, Some(&permits)).await;
                });
            }
        });
    }

    async fn retry_group(self: &Arc<Self>, mut lost: LockGroup, permits: Option<&Semaphore>) {
        while !lost.is_empty() {
            sleep(AGAIN).await;
            lost = self.verify_group(lost, permits).await;
        }
    }

    /// Verifies locks one after the other. Returns those that are lost or whose state is unknown.
    async fn verify_group(
        self: &Arc<Self>,
        group: LockGroup,
        permits: Option<&Semaphore>,
    ) -> LockGroup {
        let mut lost = LockGroup::new();
        for number in group {
            let verification = self.verify(number);
            let found = match permits {
                Some(permits) => with_permit(permits, verification).await,
                None => verification.await,
            };
            if found != VerificationOutcome::Held {
                lost.push(number);
            }
        }
        lost
    }
}

/// Runs a future with a permit, which it holds for [`PERMIT_TIME`] at most.
async fn with_permit<T>(permits: &Semaphore, done: impl Future<Output = T>) -> T {
    // The semaphore is never closed.
    let permit = permits.acquire().await.ok();
    tokio::pin!(done);
    if let Ok(done) = timeout(PERMIT_TIME, &mut done).await {
        return done;
    }
    drop(permit);
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
    async fn a_hung_lookup_holds_its_permit_for_a_bounded_time() {
        let permits = Arc::new(Semaphore::new(1));
        let hung = Arc::clone(&permits);
        let hung = tokio::spawn(async move { with_permit(&hung, pending::<()>()).await });
        tokio::task::yield_now().await;
        assert_eq!(permits.available_permits(), 0);
        with_permit(&permits, ready(())).await;
        assert!(!hung.is_finished());
        hung.abort();
    }
}

//! Refusals on their way to whoever asked, and to those who watch.

use std::sync::Arc;

use super::describe::{DescribeRefusal, DescribeStranger};
use super::{Error, Service, chronicle};
use crate::lock::fdinfo::Processes;
use crate::lock::holder::Refusal;
use crate::lock::take::Goal;
use crate::lock::work::Work as _;
use crate::lock::{self, Event, Lock, OwnerId, Want};

impl Service {
    /// Describes the owners that hold these locks on a resource; `None` where there are none.
    pub async fn describe_holders(&self, resource: &str, locks: &[Lock]) -> Option<String> {
        let (resource, holders) = (resource.to_owned(), self.holders(locks));
        if holders.is_empty() {
            return None;
        }
        let refusal = Refusal { resource, holders, ahead: None, users: Processes::default() };
        // Without the description the refusal says less; a failure is logged where it happens.
        self.storage().run(DescribeRefusal(refusal)).await.ok()
    }

    /// Puts a refusal into a sentence, and tells those who watch the resource of it. Looks users
    /// up, so it is for a storage thread.
    pub(super) fn describe(&self, id: OwnerId, error: Error) -> Error {
        self.say_refused(id, &chronicle::elsewhere(&error), self.contended(id, error))
    }

    /// The same for one who waits instead.
    pub(super) fn describe_wait(&self, id: OwnerId, because: lock::Error) {
        let because = because.into();
        self.say_waiting(id, &chronicle::elsewhere(&because), &self.contended(id, because));
    }

    fn contended(&self, id: OwnerId, error: Error) -> Error {
        if let Error::Lock(lock::Error::Held(refusal)) = &error {
            let event = Event::LockContended {
                resource: refusal.resource.clone(),
                holders: refusal.holders.iter().map(|holder| holder.owner).collect(),
                owner: id,
            };
            // For others: the one who is refused has his answer.
            drop(self.state().publish(vec![event]));
        }
        told(error)
    }
}

/// A refusal in a sentence. Looks users up, so it is for a storage thread.
pub(super) fn told(error: Error) -> Error {
    match error {
        Error::Lock(lock::Error::Held(refusal)) => {
            let message = DescribeRefusal((*refusal).clone()).perform();
            Error::Held { message, refusal }
        }
        Error::Lock(lock::Error::HeldElsewhere(stranger)) => {
            let message = DescribeStranger((*stranger).clone()).perform();
            Error::HeldElsewhere { message, stranger }
        }
        error => error,
    }
}

/// A refusal of the table's, with those who have the disk open: of them it knows nothing.
pub(super) fn with_users(
    mut error: lock::Error,
    wants: &[Want],
    goals: &[Arc<Goal>],
) -> lock::Error {
    if let lock::Error::Held(refusal) = &mut error {
        let refused = wants.iter().position(|want| want.resource == refusal.resource);
        if let Some(goal) = refused.and_then(|n| goals.get(n)) {
            refusal.users = goal.users();
            refusal
                .users
                .leave_out(|user| refusal.holders.iter().any(|holder| holder.pid == user.pid));
        }
    }
    error
}

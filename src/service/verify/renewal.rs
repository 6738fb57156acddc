//! Renews the device stacks of locked disks (what each disk lies on): before another lock is
//! granted, after a restart, and when a caller lists locks.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::lock::acquire::goal::Goal;
use crate::lock::disk::snapshot::Snapshot;
use crate::lock::request::Work;
use crate::lock::resolve::Target;
use crate::lock::resolve::renewal::{Seen, look_again};
use crate::lock::text::escape::shown;
use crate::lock::{self, Lock, OwnerId, Table};
use crate::service::core::error::Error;
use crate::service::io::executor::Executor;
use crate::service::state::SharedState;

/// How long a query waits for the renewal.
const PATIENCE: Duration = Duration::from_secs(1);

/// The device stacks of locked disks.
#[derive(Debug)]
pub(in crate::service) struct Stacks {
    state: SharedState,
    executor: Arc<Executor>,
    /// Held during a renewal for a query. Local storage may hang, and any user may query, so there
    /// is one such renewal at a time.
    query: Arc<Mutex<()>>,
}

/// Renews the stacks of locked disks.
pub(in crate::service) struct Renew(pub(in crate::service) Arc<Stacks>);

impl Work for Renew {
    type Answer = ();

    fn perform(self) {
        self.0.renew();
    }
}

impl Stacks {
    pub(in crate::service) fn new(state: &SharedState, executor: &Arc<Executor>) -> Self {
        Self { state: state.clone(), executor: Arc::clone(executor), query: Arc::default() }
    }

    /// Renews the stacks of locked disks in the table. Free of cost if no locked disk can lie on
    /// something else than before. Call it on a worker thread.
    pub(in crate::service) fn renew(&self) {
        self.look_up_again(&[], &Snapshot::default(), |_, _| {});
    }

    /// Renews the stacks of locked disks in the table, before an owner is granted locks on `goals`.
    /// Reads the kernel's state from `host`, which must not have been used for the lookup of the
    /// goals: a loop device may have been changed since.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NotLockable`] for a goal that may be the copy of another owner's file of an
    /// overlay.
    pub(in crate::service) fn renew_for(
        &self,
        id: OwnerId,
        goals: &[Arc<Goal>],
        host: &Snapshot,
    ) -> Result<(), Error> {
        let targets = goals.iter().filter_map(|goal| match &**goal {
            Goal::Disk(target) => Some(&**target),
            Goal::Key(_) => None,
        });
        let targets: Vec<&Target> = targets.collect();
        let mut refused = None;
        self.look_up_again(&targets, host, |lock, target| {
            if lock.owner != id {
                refused = Some((lock.id, target.name.clone()));
            }
        });
        let Some((lock, name)) = refused else { return Ok(()) };
        let why = format!(
            "it may be the copy of a file of an overlay on which another owner has lock {lock}, and \
             which was copied to the upper layer under a name that cannot be found"
        );
        Err(lock::Error::not_lockable(name, why).into())
    }

    /// Renews the stacks of locked disks in the table, and reports each lock with a target that may
    /// be the copy of its disk.
    fn look_up_again(
        &self,
        targets: &[&Target],
        host: &Snapshot,
        mut may_be_copy: impl FnMut(&Lock, &Target),
    ) {
        let locks = self.state.lock().table.changeable();
        for lock in locks {
            let held = self.state.lock().held.get(&lock.id).map(Arc::clone);
            let disk = held.and_then(|held| held.disk());
            let disk = disk.as_ref().map(|disk| disk.as_fd());
            let Seen { renewed, possible_copy } = look_again(&lock.want, disk, targets, host);
            if let Some(target) = possible_copy.and_then(|n| targets.get(n)) {
                may_be_copy(&lock, target);
            }
            let Some(renewed) = renewed else { continue };
            let others = self.state.lock().table.store_renewed(&lock, renewed);
            let resource = shown(&lock.want.resource);
            tracing::info!(
                lock = lock.id,
                "{resource} is on other storage than when it was locked"
            );
            for other in others {
                report_conflict(&lock, &other);
            }
        }
    }

    /// Renews the stacks as [`Self::renew`] does, for a query, which must not wait for hung
    /// storage: a stack that is not renewed in time stays as it was.
    pub(in crate::service) async fn renew_for_query(self: &Arc<Self>) {
        if self.state.lock().table.changeable().is_empty() {
            return;
        }
        let (stacks, permit) = (Arc::clone(self), Arc::clone(&self.query).lock_owned());
        let renew = async move {
            let permit = permit.await;
            // In a task of its own, which holds the mutex for as long as the request takes.
            let renewing = tokio::spawn(async move {
                let _ = stacks.executor.run(Renew(Arc::clone(&stacks))).await;
                drop(permit);
            });
            let _ = renewing.await;
        };
        let _ = timeout(PATIENCE, renew).await;
    }
}

/// Logs which locks of other owners conflict with a lock.
pub(in crate::service) fn report_conflicts(table: &Table, number: u64) {
    let Some(lock) = table.lock(number) else { return };
    for other in table.conflicts(number) {
        report_conflict(lock, other);
    }
}

fn report_conflict(lock: &Lock, other: &Lock) {
    let (resource, other) = (shown(&lock.want.resource), shown(&other.want.resource));
    tracing::error!(
        lock = lock.id,
        "{resource} shares data with {other} now, and different owners hold locks on the two"
    );
}

//! Quotas and other limits (admission control of requests).
//!
//! Without quotas, a user that may lock its own files could exhaust the service for all users. Root
//! has no quota, and in a per-user instance no user has one; the size of one call is limited for
//! all users.

use super::error::Error;
use crate::lock::model::owner::{Anchor, Owner};

/// The limits in force; all are configurable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Owners of one user.
    pub owners_per_user: usize,
    /// Locks of one user.
    pub locks_per_user: usize,
    /// Lifelines of one user's owners together.
    pub lifelines_per_user: usize,
    /// Processes that one user's owners are bound to, together.
    pub processes_per_user: usize,
    /// Calls of one user in progress, including those that wait for locks.
    pub calls_per_user: usize,
    /// Calls of one bus connection in progress.
    pub calls_per_connection: usize,
    /// Calls of one user per second.
    pub calls_per_second: usize,
    /// Calls of one bus connection per second.
    pub calls_per_second_per_connection: usize,
    /// Waiting calls of one user.
    pub waiters_per_user: usize,
    /// Waiting calls in total.
    pub waiters_total: usize,
    /// Concurrent polkit checks of one user; a dialog may stay open for minutes.
    pub checks_per_user: usize,
    /// Concurrent polkit checks in total.
    pub checks_total: usize,
    /// Resources in one call, for all users.
    pub resources_per_call: usize,
    /// Owners in total.
    pub owners_total: usize,
    /// Anchors in total; each needs one or two descriptors.
    pub anchors_total: usize,
    /// Locks in total; each needs a descriptor, or two in a hashed lockspace.
    pub locks_total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            owners_per_user: 64,
            locks_per_user: 64,
            lifelines_per_user: 128,
            processes_per_user: 64,
            calls_per_user: 64,
            calls_per_connection: 48,
            waiters_per_user: 32,
            waiters_total: 4096,
            calls_per_second: 200,
            calls_per_second_per_connection: 150,
            checks_per_user: 4,
            checks_total: 64,
            resources_per_call: 64,
            owners_total: 8192,
            anchors_total: 16_384,
            locks_total: 16_384,
        }
    }
}

/// The owners that an ordinary user may see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Visibility {
    /// The owners of all users.
    #[default]
    Open,
    /// The user's own owners.
    Private,
}

/// The users that have no quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exempt {
    /// Root, in the system service.
    Root,
    /// All users, in the instance of one user: a quota would only limit that user against itself.
    All,
}

impl Exempt {
    /// Whether this user has no quota.
    #[must_use]
    pub fn covers(self, uid: u32) -> bool {
        self == Self::All || uid == 0
    }
}

/// The usage of a user, counted over its owners.
#[derive(Debug, Default, Clone, Copy)]
pub struct Usage {
    owners: usize,
    locks: usize,
    lifelines: usize,
    processes: usize,
}

impl Usage {
    /// Counts the usage of owners.
    #[must_use]
    pub fn of<'a>(owners: impl Iterator<Item = &'a Owner>) -> Self {
        owners.fold(Self::default(), |mut usage, owner| {
            usage.owners += 1;
            usage.locks += owner.locks.len() + owner.suspended.len();
            for anchor in owner.anchors.values() {
                usage.count(*anchor);
            }
            usage
        })
    }

    /// Adds another usage.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            owners: self.owners + other.owners,
            locks: self.locks + other.locks,
            lifelines: self.lifelines + other.lifelines,
            processes: self.processes + other.processes,
        }
    }

    /// Counts an anchor.
    pub fn count(&mut self, anchor: Anchor) {
        match anchor {
            Anchor::Lifeline => self.lifelines += 1,
            Anchor::Process { .. } => self.processes += 1,
            Anchor::Connection | Anchor::Manual => {}
        }
    }

    /// Counts an owner.
    pub fn count_owner(&mut self) {
        self.owners += 1;
    }

    /// Counts locks.
    pub fn count_locks(&mut self, more: usize) {
        self.locks += more;
    }

    /// Refuses a usage that exceeds a total, where `owners` and `anchors` exist already.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] with the first exceeded limit.
    pub fn check_totals(
        &self,
        limits: &Limits,
        owners: usize,
        anchors: usize,
        exempt: bool,
    ) -> Result<(), Error> {
        if self.owners > 0 {
            check_total("owners", owners + self.owners, limits.owners_total, exempt)?;
        }
        let more = self.lifelines + self.processes;
        if more > 0 {
            check_total("anchors", anchors + more, limits.anchors_total, exempt)?;
        }
        Ok(())
    }

    /// Refuses a usage that exceeds a user's quota.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] with the first exceeded limit.
    pub fn check(&self, limits: &Limits, uid: u32) -> Result<(), Error> {
        let whose = || format!("for uid {uid}");
        let owners = limits.owners_per_user.min(share(limits.owners_total));
        within("owners", self.owners, owners, whose)?;
        let anchors = self.lifelines + self.processes;
        within("anchors", anchors, share(limits.anchors_total), whose)?;
        let locks = limits.locks_per_user.min(share(limits.locks_total));
        within("locks", self.locks, locks, whose)?;
        within("lifelines", self.lifelines, limits.lifelines_per_user, whose)?;
        within("processes", self.processes, limits.processes_per_user, whose)
    }
}

/// Refuses a count that exceeds the total, or, for a user that is not exempt, the part of it that
/// is not reserved for root.
///
/// # Errors
///
/// [`Error::Limit`].
pub fn check_total(
    what: &'static str,
    sum: usize,
    total: usize,
    exempt: bool,
) -> Result<(), Error> {
    within(what, sum, total, || "in total".to_owned())?;
    if exempt { Ok(()) } else { within(what, sum, without_reserve(total), besides_reserve) }
}

/// Returns the part of a total that users other than root may use: the last eighth is reserved for
/// root, so that other users cannot prevent the start of its VMs.
#[must_use]
pub fn without_reserve(total: usize) -> usize {
    total - total / 8
}

/// Returns the maximum of one user other than root, whatever its own limit: an eighth of the total,
/// but at least 8, since an eighth of a small total is nothing.
#[must_use]
pub fn share(total: usize) -> usize {
    (total / 8).max(8)
}

/// Returns the scope of a limit that excludes root's reserve.
fn besides_reserve() -> String {
    "in total, without the reserve for root".to_owned()
}

/// Refuses a count over its limit.
///
/// # Errors
///
/// [`Error::Limit`].
pub fn within(
    what: &'static str,
    count: usize,
    limit: usize,
    whose: impl FnOnce() -> String,
) -> Result<(), Error> {
    if count > limit { Err(Error::Limit { what, limit, whose: whose() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_of_each_total_is_for_root_and_one_user_gets_no_more_than_an_eighth() {
        assert_eq!((without_reserve(16_384), share(16_384)), (14_336, 2048));
        assert_eq!((without_reserve(64), share(64)), (56, 8));
        // A small total is not divided down to zero.
        assert_eq!((without_reserve(1), share(1)), (1, 8));
    }

    #[test]
    fn a_high_limit_of_a_user_does_not_exceed_its_share() {
        let limits = Limits { locks_per_user: 1000, locks_total: 80, ..Limits::default() };
        let mut usage = Usage::default();
        usage.count_locks(10);
        assert!(usage.check(&limits, 1000).is_ok());
        usage.count_locks(1);
        let refused = usage.check(&limits, 1000).unwrap_err().to_string();
        assert_eq!(refused, "too many locks: the limit is 10 for uid 1000");
    }
}

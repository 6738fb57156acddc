//! Quotas and totals, checked for a request before it changes the table.

use crate::lock::text::escape::shown;
use crate::lock::{self, OwnerId, Want};
use crate::service::core::error::Error;
use crate::service::core::limits::{self, Exempt, Limits, Usage, check_total, within};
use crate::service::state::State;

impl State {
    /// Refuses a request that exceeds the quota of this user or a total; `more` adds the request to
    /// the usage.
    pub(in crate::service) fn check_quota(
        &self,
        exempt: Exempt,
        uid: u32,
        more: impl FnOnce(&mut Usage),
    ) -> Result<(), Error> {
        let (mut wanted, limits) = (Usage::default(), &self.settings.limits);
        more(&mut wanted);
        let (owners, anchors) = (self.table.owner_count(), self.table.anchor_count());
        wanted.check_totals(limits, owners, anchors, exempt.covers(uid))?;
        if exempt.covers(uid) {
            return Ok(());
        }
        Usage::of(self.table.owners_of(uid)).plus(wanted).check(limits, uid)
    }

    /// Refuses locks beyond the total, or beyond the part of it that is not reserved for root.
    pub(in crate::service) fn check_total(
        &self,
        exempt: Exempt,
        uid: u32,
        more: usize,
    ) -> Result<(), Error> {
        let Limits { locks_total, .. } = self.settings.limits;
        check_total("locks", self.table.size() + more, locks_total, exempt.covers(uid))
    }

    /// Refuses a waiting request beyond the limits.
    pub(in crate::service) fn check_waiters(&self, exempt: Exempt, uid: u32) -> Result<(), Error> {
        let limits = &self.settings.limits;
        let count = |whose: &dyn Fn(u32) -> bool| {
            self.table.waiters().filter(|waiter| whose(waiter.owner.uid)).count() + 1
        };
        let (what, total) = ("waiting requests", limits.waiters_total);
        let sum = count(&|_| true);
        check_total(what, sum, total, exempt.covers(uid))?;
        if exempt.covers(uid) {
            return Ok(());
        }
        let own = limits.waiters_per_user.min(limits::share(total));
        within(what, count(&|other| other == uid), own, || format!("for uid {uid}"))
    }

    /// Refuses disks to an owner that neither holds a lease nor requests one together with them.
    pub(in crate::service) fn check_lease(
        &self,
        id: OwnerId,
        wants: &[Want],
        disk: usize,
    ) -> Result<(), Error> {
        if wants.iter().any(Want::is_lease) || self.table.has_lease(id) {
            return Ok(());
        }
        let disk = wants.get(disk).map(|want| shown(&want.resource)).unwrap_or_default();
        Err(lock::Error::LeaseRequired(disk).into())
    }

    pub(in crate::service) fn check_open(&self) -> Result<(), Error> {
        if self.closing { Err(Error::ShuttingDown) } else { Ok(()) }
    }
}

//! Random steps, executed as the service executes them.

use proptest::prelude::*;

use super::*;
use crate::lock::model::owner::Offer;
use crate::lock::table::Move;
use crate::lock::table::queue::{Purpose, Status, Ticket, Waiter};

pub(super) const OWNERS: u32 = 4;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Reserve(u32, Vec<(u64, bool)>, Again),
    /// A request that is queued if it is refused.
    Ask(u32, Vec<(u64, bool)>),
    Commit,
    Cancel,
    Release(usize),
    Finish,
    /// A release that reserves the resources for their former owner.
    FinishReserved,
    /// Time passes.
    Tick,
    Upgrade(usize, bool),
    Downgrade(usize),
    /// An attempt of a waiter that is woken or waits for a foreign holder.
    Try(usize),
    Withdraw(usize),
    /// A woken waiter meets a foreign holder.
    ForeignHolder(usize),
    Busy(usize),
    Suspend(u32),
    Resume(u32),
    Offer(u32),
    Adopt(u32, u32),
    EndMove(bool),
    End(u32, bool),
}

fn disks() -> impl Strategy<Value = Vec<(u64, bool)>> {
    prop::collection::vec((0..DISKS, any::<bool>()), 1..4)
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let again = prop_oneof![3 => Just(Again::Same), 1 => Just(Again::Count)];
    let step = prop_oneof![
        4 => (0..OWNERS, disks(), again).prop_map(|(o, d, a)| Step::Reserve(o, d, a)),
        5 => (0..OWNERS, disks()).prop_map(|(o, d)| Step::Ask(o, d)),
        6 => Just(Step::Commit),
        2 => Just(Step::Cancel),
        4 => (0..8usize).prop_map(Step::Release),
        3 => Just(Step::Finish),
        2 => Just(Step::FinishReserved),
        2 => Just(Step::Tick),
        2 => (0..8usize, any::<bool>()).prop_map(|(n, waits)| Step::Upgrade(n, waits)),
        1 => (0..8usize).prop_map(Step::Downgrade),
        4 => (0..8usize).prop_map(Step::Try),
        1 => (0..8usize).prop_map(Step::Withdraw),
        1 => (0..8usize).prop_map(Step::ForeignHolder),
        1 => (0..8usize).prop_map(Step::Busy),
        1 => (0..OWNERS).prop_map(Step::Suspend),
        2 => (0..OWNERS).prop_map(Step::Resume),
        1 => (0..OWNERS).prop_map(Step::Offer),
        2 => (0..OWNERS, 0..OWNERS).prop_map(|(s, t)| Step::Adopt(s, t)),
        3 => any::<bool>().prop_map(Step::EndMove),
        1 => (0..OWNERS, any::<bool>()).prop_map(|(o, back)| Step::End(o, back)),
    ];
    prop::collection::vec(step, 1..80)
}

/// A reservation that is neither committed nor cancelled.
struct Granting {
    owner: OwnerId,
    fresh: Vec<u64>,
    resumes: bool,
}

/// The table, and the operations in progress on it.
#[derive(Default)]
pub(super) struct World {
    pub(super) table: Table,
    granting: Vec<Granting>,
    releasing: Vec<(u64, Reason)>,
    moving: Vec<Move>,
    clock: u64,
}

fn wants(disks: &[(u64, bool)]) -> Vec<Want> {
    let mode = |shared: bool| if shared { Mode::Shared } else { Mode::Exclusive };
    disks.iter().map(|(n, shared)| disk(*n, mode(*shared))).collect()
}

impl World {
    pub(super) fn new() -> Self {
        Self { table: table(OWNERS), ..Self::default() }
    }

    /// Whether an owner is executing a command: the service executes one at a time.
    fn is_busy(&self, owner: OwnerId) -> bool {
        let moving = self
            .moving
            .iter()
            .any(|moved| moved.remembered && (moved.from == owner || moved.to == owner));
        let suspends = |(lock, reason): &(u64, Reason)| {
            *reason == Reason::Suspended
                && self.table.locks.get(lock).is_some_and(|lock| lock.owner == owner)
        };
        moving
            || self.granting.iter().any(|granting| granting.owner == owner)
            || self.releasing.iter().any(suspends)
    }

    fn nth(&self, n: usize) -> Option<(u64, OwnerId)> {
        self.table.locks().nth(n).map(|lock| (lock.id, lock.owner))
    }

    fn waiter(&self, n: usize) -> Option<Waiter> {
        self.table.waiters().nth(n).cloned()
    }

    /// Reserves. Asserts that no earlier waiter had priority for a reserved resource, and that a
    /// refusal or an immediate rollback leaves the state as it was.
    fn reserve(
        &mut self,
        ticket: Option<Ticket>,
        owner: OwnerId,
        wants: &[Want],
        again: Again,
        resumes: bool,
    ) -> Result<(), Error> {
        let before = self.picture();
        let behind_waiter = naive::behind_waiter(&self.table, ticket, owner, wants);
        let reserve = |table: &mut Table| match ticket {
            Some(ticket) => table.reserve_at(ticket, owner, wants, 0, again),
            None => table.reserve(owner, wants, 0, again),
        };
        let fresh = |reserved: &Reservation| reserved.fresh.iter().map(|(lock, _)| *lock).collect();
        match reserve(&mut self.table) {
            Ok(reserved) => {
                assert_eq!(reserved.locks.len(), wants.len());
                assert_eq!(behind_waiter, None, "{owner:?} overtakes");
                let fresh: Vec<u64> = fresh(&reserved);
                self.table.cancel(&fresh);
            }
            Err(error) => {
                assert_eq!(self.picture(), before, "refused: {error}");
                return Err(error);
            }
        }
        assert_eq!(self.picture(), before, "cancelled");
        let fresh = fresh(&reserve(&mut self.table)?);
        self.granting.push(Granting { owner, fresh, resumes });
        Ok(())
    }

    fn wait(&mut self, owner: OwnerId, wants: &[Want], purpose: Purpose) {
        // A request that is refused for another reason than a holder is not queued.
        if self.table.waiters().count() < 6 {
            let _ = self.table.enqueue(owner, wants, purpose, 0);
        }
    }

    // One function holds the effects of all steps, so that they can be read in one place.
    #[allow(clippy::too_many_lines)]
    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Reserve(owner, disks, again) => {
                let owner = id(owner);
                if !self.is_busy(owner) && self.table.check_running(owner).is_ok() {
                    let _ = self.reserve(None, owner, &wants(&disks), again, false);
                }
            }
            Step::Ask(owner, disks) => {
                let (owner, wants) = (id(owner), wants(&disks));
                if self.is_busy(owner) || self.table.check_running(owner).is_err() {
                    return;
                }
                let reserved = self.reserve(None, owner, &wants, Again::Same, false);
                if reserved.is_err_and(|error| error.is_held()) {
                    self.wait(owner, &wants, Purpose::Acquire);
                }
            }
            Step::Commit => {
                let Some(Granting { owner, fresh, resumes }) = self.granting.pop() else { return };
                if self.table.commit(owner, &fresh).is_err() {
                    self.table.cancel(&fresh);
                    return;
                }
                self.table.reclaim(owner, &fresh);
                if resumes {
                    self.table.resume(owner);
                }
            }
            Step::Cancel => {
                if let Some(Granting { fresh, .. }) = self.granting.pop() {
                    self.table.cancel(&fresh);
                }
            }
            Step::Release(n) => {
                if let Some((lock, owner)) = self.nth(n)
                    && !self.is_busy(owner)
                {
                    self.table.begin_release(lock).unwrap();
                    self.releasing.push((lock, Reason::Released));
                }
            }
            Step::Finish => {
                for (lock, reason) in std::mem::take(&mut self.releasing) {
                    self.table.finish_release(&[lock], reason);
                }
            }
            Step::FinishReserved => {
                for (lock, reason) in std::mem::take(&mut self.releasing) {
                    if reason == Reason::Released {
                        self.table.finish_release_reserved(&[lock], self.clock + 2, 3);
                    } else {
                        self.table.finish_release(&[lock], reason);
                    }
                }
            }
            Step::Tick => {
                self.clock += 1;
                let over = self.table.end_reclaims(self.clock);
                assert!(over.iter().all(|reserved| reserved.until == self.clock));
                assert!(self.table.next_reclaim_end().is_none_or(|end| end > self.clock));
            }
            Step::Upgrade(n, waits) => self.upgrade(n, waits),
            Step::Downgrade(n) => {
                if let Some((lock, owner)) = self.nth(n)
                    && !self.is_busy(owner)
                {
                    self.table.set_mode(lock, Mode::Shared).unwrap();
                }
            }
            Step::Try(n) => self.try_again(n),
            Step::Withdraw(n) => {
                if let Some(waiter) = self.waiter(n) {
                    self.table.leave_queue(waiter.ticket);
                }
            }
            Step::ForeignHolder(n) => {
                if let Some(waiter) = self.waiter(n).filter(|waiter| waiter.status == Status::Woken)
                {
                    let resource = waiter.wants[0].resource.clone();
                    let foreign = naive::foreign(resource);
                    self.table.wait_for_foreign_holder(waiter.ticket, 0, foreign);
                }
            }
            Step::Busy(n) => {
                if let Some(waiter) = self.waiter(n).filter(|waiter| waiter.status == Status::Woken)
                {
                    self.table.wait_busy(waiter.ticket);
                }
            }
            Step::Suspend(owner) => self.suspend(id(owner)),
            Step::Resume(owner) => {
                let owner = id(owner);
                if self.is_busy(owner) {
                    return;
                }
                let Ok(wants) = self.table.remembered(owner) else { return };
                if wants.is_empty() {
                    return;
                }
                let reserved = self.reserve(None, owner, &wants, Again::Same, true);
                if reserved.is_err_and(|error| error.is_held()) {
                    self.wait(owner, &wants, Purpose::Resume);
                }
            }
            Step::Offer(owner) => {
                let token = Uuid::from_u128(u128::from(owner) + 1);
                let _ = self.table.offer(id(owner), Offer { token, until: 1, record: 1 });
            }
            Step::Adopt(from, to) => {
                let token = Uuid::from_u128(u128::from(from) + 1);
                if self.is_busy(id(from)) || self.is_busy(id(to)) {
                    return;
                }
                let before = self.picture();
                match self.table.begin_adoption(token, id(to), 0) {
                    Ok(moved) => {
                        // A transfer that is cancelled at once leaves nothing.
                        assert!(self.table.cancel_move(&moved).is_empty());
                        assert_eq!(self.picture(), before);
                        let moved = self.table.begin_adoption(token, id(to), 0).unwrap();
                        self.moving.push(moved);
                    }
                    Err(_) => assert_eq!(self.picture(), before),
                }
            }
            Step::EndMove(well) => self.end_move(well),
            Step::End(owner, gives_back) => {
                if let Ok(ended) = self.table.end_owner(id(owner), gives_back, 0) {
                    self.releasing
                        .extend(ended.held.into_iter().map(|lock| (lock, Reason::OwnerGone)));
                    self.moving.extend(ended.returns);
                }
            }
        }
    }

    fn upgrade(&mut self, n: usize, waits: bool) {
        let Some((lock, owner)) = self.nth(n) else { return };
        if self.is_busy(owner) || self.table.begin_upgrade(lock).is_ok() || !waits {
            return;
        }
        let held = self.table.lock(lock).unwrap().want.clone();
        self.wait(owner, &[Want { mode: Mode::Exclusive, ..held }], Purpose::Upgrade(lock));
    }

    fn try_again(&mut self, n: usize) {
        let Some(waiter) = self.waiter(n) else { return };
        let tries = matches!(waiter.status, Status::Woken | Status::Elsewhere(..) | Status::Busy);
        if !tries || self.is_busy(waiter.owner) {
            return;
        }
        let done = match waiter.purpose {
            Purpose::Upgrade(lock) => match self.table.begin_upgrade(lock) {
                Ok(()) | Err(Error::NoSuchLock(_)) => true,
                Err(_) => false,
            },
            Purpose::Resume
                if self.table.remembered(waiter.owner).is_ok_and(|all| all.is_empty()) =>
            {
                true
            }
            Purpose::Acquire if self.table.check_running(waiter.owner).is_err() => true,
            Purpose::Acquire | Purpose::Resume => {
                let resumes = waiter.purpose == Purpose::Resume;
                let ticket = Some(waiter.ticket);
                let reserved =
                    self.reserve(ticket, waiter.owner, &waiter.wants, Again::Same, resumes);
                !reserved.is_err_and(|error| error.is_held())
            }
        };
        if done {
            self.table.leave_queue(waiter.ticket);
        } else {
            self.table.wait_on(waiter.ticket);
        }
    }

    fn suspend(&mut self, owner: OwnerId) {
        let offers = self.table.living(owner).is_ok_and(|owner| owner.offer.is_some());
        if self.is_busy(owner) || offers {
            return;
        }
        let Ok(held) = self.table.begin_suspension(owner) else { return };
        let own = self.table.waiters().filter(|waiter| waiter.owner == owner);
        for ticket in own.map(|waiter| waiter.ticket).collect::<Vec<_>>() {
            self.table.leave_queue(ticket);
        }
        self.releasing.extend(held.into_iter().map(|lock| (lock, Reason::Suspended)));
    }

    fn end_move(&mut self, well: bool) {
        let Some(moved) = self.moving.pop() else { return };
        if well && self.table.end_move(&moved).is_ok() {
            return;
        }
        let left = self.table.cancel_move(&moved);
        self.releasing.extend(left.into_iter().map(|lock| (lock, Reason::OwnerGone)));
    }

    /// Asserts that every lock that is being granted belongs to a command in progress, and none to
    /// a waiter.
    pub(super) fn check_waiters_hold_nothing(&self) {
        let given: BTreeSet<u64> =
            self.granting.iter().flat_map(|granting| granting.fresh.iter().copied()).collect();
        let giving = self.table.locks.values().filter(|lock| lock.stage == Stage::Granting);
        assert_eq!(giving.map(|lock| lock.id).collect::<BTreeSet<_>>(), given);
    }

    /// Returns all state but the used lock numbers.
    pub(super) fn picture(&self) -> String {
        let Table { owners, locks, by_name, queue, reclaims, ended, .. } = &self.table;
        let reclaims: Vec<_> = reclaims.iter().collect();
        let waiters: Vec<_> = queue.iter().collect();
        format!(
            "{owners:?}\n{locks:?}\n{by_name:?}\n{waiters:?}\n{reclaims:?}\n{ended:?}\n{}",
            self.table.index.census().0
        )
    }
}

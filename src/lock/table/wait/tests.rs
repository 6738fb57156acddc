//! The queue under random requests: no waiter is overtaken or forgotten, no waiter holds a lock,
//! and a rollback leaves nothing.

use proptest::prelude::*;

use super::*;
use crate::lock::model::event::Reason;
use crate::lock::table::Again;
use crate::lock::table::tests::{DISKS, disk, id, table};

#[derive(Debug, Clone)]
enum Step {
    /// A request, which is queued if it is refused.
    Ask(u32, Vec<(u64, bool)>),
    Upgrade(usize),
    /// An attempt of a woken waiter.
    Try(usize),
    /// The oldest reservation is committed or cancelled.
    Commit,
    Cancel,
    Release(usize),
    Downgrade(usize),
    Leave(usize),
    /// The names in a waiting request lead to other disks.
    Rename(usize, Vec<(u64, bool)>),
    End(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let disks = prop::collection::vec((0..DISKS, any::<bool>()), 1..3);
    let step = prop_oneof![
        6 => (0..5u32, disks.clone()).prop_map(|(owner, disks)| Step::Ask(owner, disks)),
        2 => (0..8usize).prop_map(Step::Upgrade),
        5 => (0..8usize).prop_map(Step::Try),
        5 => Just(Step::Commit),
        1 => Just(Step::Cancel),
        4 => (0..8usize).prop_map(Step::Release),
        1 => (0..8usize).prop_map(Step::Downgrade),
        1 => (0..8usize).prop_map(Step::Leave),
        1 => (0..8usize, disks).prop_map(|(n, disks)| Step::Rename(n, disks)),
        1 => (0..5u32).prop_map(Step::End),
    ];
    prop::collection::vec(step, 1..80)
}

/// A table, and the state that its service would keep.
struct Fixture {
    table: Table,
    /// The reservations that are not committed: their owners, tickets and new locks.
    granting: Vec<(OwnerId, Option<Ticket>, Vec<u64>)>,
    woken: Vec<Ticket>,
}

/// Returns all state that must be as before after a rollback.
fn picture(table: &Table) -> String {
    let waiters: Vec<&Waiter> = table.waiters().collect();
    format!("{:?}\n{:?}\n{waiters:?}\n{:?}", table.owners, table.locks, table.index.census())
}

impl Fixture {
    /// Wakes waiters as the service does on each unlock of the mutex.
    fn wake_waiters(&mut self) -> usize {
        let wakeups = self.table.wake_waiters();
        let count = wakeups.woken.len();
        self.woken.extend(wakeups.woken);
        count
    }

    fn is_busy(&self, owner: OwnerId) -> bool {
        self.granting.iter().any(|(granted, ..)| *granted == owner)
    }

    /// Asserts that no later request gets a resource for which an earlier request waits and nothing
    /// else.
    fn check_no_waiter_is_overtaken(&self, owner: OwnerId, ticket: Ticket, fresh: &[u64]) {
        for lock in fresh.iter().filter_map(|lock| self.table.locks.get(lock)) {
            for (waiter, _, wanted) in self.table.queue.for_resource(&lock.want) {
                // An earlier request of the same owner comes first, also for a part of the same
                // disk. Until then the later request has no priority.
                let mut before = self.table.queue.for_resource(wanted);
                let own = before.any(|(earlier, ..)| {
                    earlier.owner == waiter.owner && earlier.ticket < waiter.ticket
                });
                let own = own || self.table.has_lock_on(waiter.owner, wanted);
                let first = waiter.ticket < ticket && waiter.wants.len() == 1 && !own;
                let conflict = waiter.owner != owner && wanted.mode.conflicts(lock.want.mode);
                assert!(!(first && conflict), "{lock:?} overtakes {waiter:?}");
            }
        }
    }

    fn reserve(
        &mut self,
        owner: OwnerId,
        ticket: Option<Ticket>,
        wants: &[Want],
    ) -> Result<(), Error> {
        let at = ticket.unwrap_or(LAST);
        let before = picture(&self.table);
        let reserved = self.table.reserve_at(at, owner, wants, 0, Again::Same);
        let reserved = reserved.inspect_err(|_| {
            assert_eq!(picture(&self.table), before, "a refusal leaves something");
        })?;
        let numbers = |fresh: &[(u64, usize)]| fresh.iter().map(|(lock, _)| *lock).collect();
        let fresh: Vec<u64> = numbers(&reserved.fresh);
        self.check_no_waiter_is_overtaken(owner, at, &fresh);
        // A waiter that can only fail may be woken at any time.
        let may_wake_late = self.table.waiters().any(|waiter| self.can_only_fail(waiter));
        if may_wake_late {
            self.granting.push((owner, ticket, fresh));
            return Ok(());
        }
        self.table.cancel(&fresh);
        assert_eq!(self.wake_waiters(), 0, "a rollback wakes a waiter");
        assert_eq!(picture(&self.table), before, "a rollback leaves something");
        let fresh = numbers(&self.table.reserve_at(at, owner, wants, 0, Again::Same)?.fresh);
        self.granting.push((owner, ticket, fresh));
        Ok(())
    }

    fn request(&mut self, owner: OwnerId, wants: &[Want]) {
        if self.is_busy(owner) {
            return;
        }
        if let Err(Error::Held(_)) = self.reserve(owner, None, wants) {
            let locks = self.table.locks.len();
            self.table.enqueue(owner, wants, Purpose::Acquire, 0).unwrap();
            assert_eq!(self.table.locks.len(), locks, "a waiter holds a lock for its request");
        }
    }

    fn upgrade(&mut self, number: u64) {
        let Some(lock) = self.table.lock(number).cloned() else { return };
        if !self.is_busy(lock.owner)
            && let Err(Error::Held(_)) = self.table.begin_upgrade(number)
        {
            let wants = [Want { mode: Mode::Exclusive, ..lock.want }];
            let _ = self.table.enqueue(lock.owner, &wants, Purpose::Upgrade(number), 0);
        }
    }

    fn attempt(&mut self, n: usize) {
        let Some(ticket) = self.woken.get(n).copied() else { return };
        let Some(waiter) = self.table.waiter(ticket).cloned() else {
            self.woken.remove(n);
            return;
        };
        if self.is_busy(waiter.owner) {
            return;
        }
        self.woken.remove(n);
        let (tried, ends) = match waiter.purpose {
            Purpose::Upgrade(lock) => (self.table.begin_upgrade(lock), true),
            _ => (self.reserve(waiter.owner, Some(ticket), &waiter.wants), false),
        };
        match tried {
            Err(Error::Held(_)) => self.table.wait_on(ticket),
            Ok(()) if !ends => {}
            _ => drop(self.table.leave_queue(ticket)),
        }
    }

    fn rename(&mut self, n: usize, wants: &[Want]) {
        let Some(waiter) = self.table.waiters().nth(n).cloned() else { return };
        let ticket = waiter.ticket;
        let tries = self.granting.iter().any(|(_, tried, _)| *tried == Some(ticket));
        if waiter.purpose == Purpose::Acquire && !tries {
            self.table.want_instead(ticket, wants);
            assert_eq!(self.table.waiter(ticket).unwrap().wants, wants);
            if !self.woken.contains(&ticket) {
                self.woken.push(ticket);
            }
        }
    }

    fn commit(&mut self, comes_true: bool) {
        if self.granting.is_empty() {
            return;
        }
        let (owner, ticket, fresh) = self.granting.remove(0);
        if !comes_true || self.table.commit(owner, &fresh).is_err() {
            self.table.cancel(&fresh);
        }
        if let Some(ticket) = ticket {
            self.table.leave_queue(ticket);
        }
    }

    fn release(&mut self, number: u64) {
        self.table.begin_release(number).unwrap();
        self.wake_waiters();
        self.table.finish_release(&[number], Reason::Released);
    }

    /// Checks the invariants.
    fn check(&self) {
        let waits =
            |waiter: &&Waiter| waiter.status == Status::Waiting && !self.can_only_fail(waiter);
        for waiter in self.table.waiters().filter(waits) {
            assert!(!self.table.is_unblocked(waiter), "not woken: {waiter:?}");
            let is_upgrade = matches!(waiter.purpose, Purpose::Upgrade(_));
            assert!(
                is_upgrade || self.table.refusal_of(waiter).is_some() || self.waits_for_own(waiter)
            );
        }
        for waiter in self.table.waiters().filter(|waiter| waiter.status == Status::Woken) {
            let tries = self.granting.iter().any(|(_, tried, _)| *tried == Some(waiter.ticket));
            assert!(tries || self.woken.contains(&waiter.ticket), "{waiter:?} does not know it");
        }
    }

    /// Whether a waiter wants a resource that its owner has acquired meanwhile in another mode.
    /// Such a waiter can only be refused, at any time.
    fn can_only_fail(&self, waiter: &Waiter) -> bool {
        let is_upgrade = matches!(waiter.purpose, Purpose::Upgrade(_));
        let other = |want: &Want| {
            let own = self.table.own(waiter.owner, want);
            own.is_some_and(|lock| lock.want.mode != want.mode)
        };
        !is_upgrade && waiter.wants.iter().any(other)
    }

    fn waits_for_own(&self, waiter: &Waiter) -> bool {
        waiter.wants.iter().any(|want| self.table.follows_own_waiter(waiter, want))
    }

    /// Ends all reservations, then releases all locks: no waiter may be left.
    fn wind_up(&mut self) {
        let mut rounds = self.table.waiters().count() + 1;
        while self.table.size() > 0 || !self.table.queue.is_empty() {
            assert!(rounds > 0, "these wait for ever: {:?}", self.table.queue);
            rounds -= 1;
            while !self.granting.is_empty() {
                self.commit(true);
            }
            let held: Vec<u64> = self.table.locks().map(|lock| lock.id).collect();
            for lock in held {
                self.release(lock);
            }
            self.wake_waiters();
            for _ in 0..self.woken.len() {
                self.attempt(0);
                self.wake_waiters();
                self.commit(true);
                self.wake_waiters();
            }
            self.check();
        }
    }
}

fn wanted(disks: &[(u64, bool)]) -> Vec<Want> {
    let want =
        |(n, shared): &(u64, bool)| disk(*n, if *shared { Mode::Shared } else { Mode::Exclusive });
    disks.iter().map(want).collect()
}

proptest! {
    #[test]
    fn no_waiter_is_overtaken_or_forgotten(steps in steps()) {
        let mut fixture = Fixture { table: table(5), granting: Vec::new(), woken: Vec::new() };
        for step in steps {
            let nth = |fixture: &Fixture, n: usize| fixture.table.locks().nth(n).map(|lock| lock.id);
            match step {
                Step::Rename(n, disks) => fixture.rename(n, &wanted(&disks)),
                Step::Ask(owner, disks) => {
                    let wants = wanted(&disks);
                    if fixture.table.living(id(owner)).is_ok() {
                        fixture.request(id(owner), &wants);
                    }
                }
                Step::Upgrade(n) => if let Some(lock) = nth(&fixture, n) {
                    fixture.upgrade(lock);
                },
                Step::Try(n) => fixture.attempt(n),
                Step::Commit => fixture.commit(true),
                Step::Cancel => fixture.commit(false),
                Step::Release(n) => if let Some(lock) = nth(&fixture, n) {
                    fixture.release(lock);
                },
                Step::Downgrade(n) => if let Some(lock) = nth(&fixture, n) {
                    fixture.table.set_mode(lock, Mode::Shared).unwrap();
                },
                Step::Leave(n) => {
                    let ticket = fixture.table.waiters().nth(n).map(|waiter| waiter.ticket);
                    let tries = fixture.granting.iter().any(|(_, tried, _)| *tried == ticket);
                    if let Some(ticket) = ticket.filter(|_| !tries) {
                        fixture.table.leave_queue(ticket);
                    }
                }
                Step::End(owner) => if let Ok(ended) = fixture.table.end_owner(id(owner), false, 0) {
                    fixture.wake_waiters();
                    fixture.table.finish_release(&ended.held, Reason::OwnerGone);
                },
            }
            fixture.wake_waiters();
            fixture.check();
        }
        fixture.wind_up();
    }
}

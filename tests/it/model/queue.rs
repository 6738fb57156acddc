//! The model's queue: who waits, and what that is worth against others.

use std::collections::BTreeSet;

use vmlockd::lock::Mode;

use super::answer::{Answer, RefusalReason};
use super::op::{Anchor, Disk, DiskRequest, Vm, Wait};
use super::reference::{Outcome, ReferenceModel};

/// A waiting request.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    /// The step that asked.
    pub(super) call: usize,
    pub(super) vm: Vm,
    pub(super) what: What,
}

/// A request that may wait.
#[derive(Clone, Debug)]
pub(super) enum What {
    Open(Anchor, Vec<DiskRequest>),
    Acquire(Vec<DiskRequest>),
    Resume(Vec<DiskRequest>),
    Upgrade(Disk),
}

impl What {
    /// The disks, and how each is wanted.
    pub(super) fn wants(&self) -> Vec<(Disk, Mode)> {
        match self {
            Self::Open(_, disk_requests)
            | Self::Acquire(disk_requests)
            | Self::Resume(disk_requests) => disk_requests
                .iter()
                .map(|disk_request| (disk_request.disk, disk_request.mode))
                .collect(),
            Self::Upgrade(disk) => vec![(*disk, Mode::Exclusive)],
        }
    }

    /// The word for it.
    pub(super) fn purpose(&self) -> &'static str {
        match self {
            Self::Open(..) | Self::Acquire(_) => "acquire",
            Self::Resume(_) => "resume",
            Self::Upgrade(_) => "convert",
        }
    }

    pub(super) fn upgrades(&self) -> bool {
        matches!(self, Self::Upgrade(_))
    }
}

fn conflict(a: Mode, b: Mode) -> bool {
    a == Mode::Exclusive || b == Mode::Exclusive
}

impl ReferenceModel {
    /// Returns the obstacle to a request that comes after these waiters: nothing, a lock of another
    /// owner, or the priority of one of the waiters.
    fn in_the_way<'w>(
        &self,
        vm: Vm,
        (disk, mode): (Disk, Mode),
        ahead: impl Iterator<Item = &'w Waiter>,
    ) -> Result<(), RefusalReason> {
        let others = self.held_by_others(vm, disk);
        let conflicting: BTreeSet<(Vm, Mode)> =
            others.iter().copied().filter(|(_, held)| conflict(*held, mode)).collect();
        if !conflicting.is_empty() {
            return Err(RefusalReason::Held(disk, conflicting, None));
        }
        if self.locks.contains_key(&(vm, disk)) {
            // The requester holds it already, so no other owner can.
            return Ok(());
        }
        let mut claims: Vec<(Vm, Mode)> = Vec::new();
        for waiter in ahead {
            let Some((_, wanted)) =
                waiter.what.wants().into_iter().find(|(which, _)| *which == disk)
            else {
                continue;
            };
            let held = self.held_by_others(waiter.vm, disk);
            let held = held.iter().any(|(_, held)| conflict(*held, wanted));
            let behind =
                claims.iter().any(|(of, earlier)| *of != waiter.vm && conflict(*earlier, wanted));
            if held || behind {
                if waiter.vm != vm && conflict(wanted, mode) {
                    return Err(RefusalReason::Held(disk, others, Some(waiter.vm)));
                }
                claims.push((waiter.vm, wanted));
            }
        }
        Ok(())
    }

    fn held_by_others(&self, vm: Vm, disk: Disk) -> BTreeSet<(Vm, Mode)> {
        let locks = self.locks.iter().filter(|((who, which), _)| *who != vm && *which == disk);
        locks.map(|((who, _), lock)| (*who, lock.mode)).collect()
    }

    /// Why a request has to wait, at its place in the queue or behind all others.
    pub(super) fn refusal(
        &self,
        vm: Vm,
        what: &What,
        call: Option<usize>,
    ) -> Result<(), RefusalReason> {
        for want in what.wants() {
            let ahead = self.queue().take_while(|waiter| Some(waiter.call) != call);
            self.in_the_way(vm, want, ahead)?;
        }
        Ok(())
    }

    /// Returns all waiters in order: upgrades to exclusive locks come first.
    pub(super) fn queue(&self) -> impl Iterator<Item = &Waiter> {
        let upgrades = |waiter: &&Waiter| waiter.what.upgrades();
        let first = self.waiters.iter().filter(upgrades);
        first.chain(self.waiters.iter().filter(move |waiter| !upgrades(waiter)))
    }

    /// Grants a request, has it wait, or refuses it. `None`: it waits.
    pub(super) fn ask(&mut self, call: usize, vm: Vm, what: What, wait: Wait) -> Option<Outcome> {
        let why = match self.attempt(vm, &what, None) {
            Err(why @ RefusalReason::Held(..)) if wait != Wait::No => why,
            outcome => return Some(outcome),
        };
        if let What::Upgrade(disk) = what {
            let second = self.waiters.iter().find(|waiter| {
                waiter.vm != vm && matches!(waiter.what, What::Upgrade(other) if other == disk)
            });
            if let Some(second) = second {
                let others = self.held_by_others(vm, disk);
                return Some(Err(RefusalReason::Held(disk, others, Some(second.vm))));
            }
        }
        if wait == Wait::Over {
            return Some(Err(RefusalReason::TimedOut(Box::new(Some(why)))));
        }
        self.waiters.push(Waiter { call, vm, what });
        None
    }

    /// Checks all waiters again, in order, until none can be granted.
    pub(super) fn serve(&mut self) {
        loop {
            let free =
                |waiter: &&Waiter| self.refusal(waiter.vm, &waiter.what, Some(waiter.call)).is_ok();
            let Some(next) = self.queue().find(free).cloned() else { return };
            let outcome = self.attempt(next.vm, &next.what, Some(next.call));
            self.waiters.retain(|waiter| waiter.call != next.call);
            self.answered.push((next.call, outcome.unwrap_or_else(Answer::Refused)));
        }
    }

    /// Cancels the matching waiters, with the reason.
    pub(super) fn withdraw(&mut self, why: &RefusalReason, whose: impl Fn(&Waiter) -> bool) {
        let meant = self.waiters.extract_if(.., |waiter| whose(waiter));
        self.answered.extend(meant.map(|waiter| (waiter.call, Answer::Refused(why.clone()))));
    }
}

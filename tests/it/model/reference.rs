//! The model: who holds what, as the rules say it, and nothing of how it is done.
//!
//! It knows no identity, no number and no stage: a step is done or refused, at once and as a whole.

use std::collections::BTreeMap;

use vmlockd::lock::Mode;

use super::answer::{Answer, RefusalReason};
use super::op::{Anchor, By, Disk, DiskRequest, Op, Spelling, Vm, Wait};
use super::queue::{Waiter, What};

/// A machine that is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) lifelines: usize,
    pub(super) manual: bool,
    /// The suspended disks, the oldest first.
    pub(super) suspended: Vec<DiskRequest>,
    /// All that it holds is offered to others.
    pub(super) offers: bool,
    /// The VM that has received its suspended disks.
    pub(super) handed_to: Option<Vm>,
    /// The former owners of its disks.
    pub(super) came_from: BTreeMap<Disk, Vm>,
}

/// A lock of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) mode: Mode,
    pub(super) spelling: Spelling,
    /// The how-manieth it is of all that were ever given: two locks with one number are one.
    pub(super) born: usize,
}

/// The holders of all disks.
#[derive(Clone, Debug, Default)]
pub(super) struct ReferenceModel {
    pub(super) owners: BTreeMap<Vm, Owner>,
    pub(super) locks: BTreeMap<(Vm, Disk), Lock>,
    /// In the order in which they came.
    pub(super) waiters: Vec<Waiter>,
    /// The answers of the current step.
    pub(super) answered: Vec<(usize, Answer)>,
    born: usize,
}

/// The result of a request.
pub(super) type Outcome = Result<Answer, RefusalReason>;

impl ReferenceModel {
    /// Returns whether a step is possible: a VM that is being opened only accepts a cancellation.
    pub(super) fn permits(&self, op: &Op) -> bool {
        match op {
            Op::NewLifeline(vm)
            | Op::Acquire { vm, .. }
            | Op::Release { vm, .. }
            | Op::Convert { vm, .. }
            | Op::Suspend { vm, .. }
            | Op::Resume { vm, .. }
            | Op::Offer { vm, .. }
            | Op::Adopt { vm, .. }
            | Op::Close { vm, .. } => !self.is_opening(*vm),
            _ => true,
        }
    }

    /// Performs a step, and returns the calls that it answers, each by the number of its step.
    pub(super) fn apply(&mut self, call: usize, op: &Op) -> Vec<(usize, Answer)> {
        let outcome = match op {
            Op::Open { vm, anchor, disk_requests, wait } => {
                self.open(call, *vm, *anchor, disk_requests, *wait)
            }
            Op::NewLifeline(vm) => Some(self.living(*vm).map(|owner| {
                owner.lifelines += 1;
                Answer::Done
            })),
            Op::Drop(vm) => self.drop_lifelines(*vm, 1),
            Op::Acquire { vm, disk_requests, wait } => match self.running(*vm) {
                Ok(()) => self.ask(call, *vm, What::Acquire(disk_requests.clone()), *wait),
                Err(why) => Some(Err(why)),
            },
            Op::Release { vm, disks, by } => Some(self.release(*vm, disks, *by)),
            Op::Convert { vm, disk, mode, wait } => self.convert(call, *vm, *disk, *mode, *wait),
            Op::Suspend { vm, by } => Some(self.suspend(*vm, *by)),
            Op::Resume { vm, wait } => self.resume(call, *vm, *wait),
            Op::Offer { vm, by, lasting } => Some(self.offer(*vm, *by, *lasting)),
            Op::Adopt { vm, from } => Some(self.adopt(*vm, *from)),
            Op::Close { vm, by } => Some(self.close(*vm, *by)),
            Op::Cancel(vm) => Some(self.cancel(*vm)),
            Op::Leave(vm) => {
                let first = self.waiters.iter().find(|waiter| waiter.vm == *vm);
                if let Some(first) = first.map(|waiter| waiter.call) {
                    self.withdraw(&RefusalReason::CallerGone, |waiter| waiter.call == first);
                }
                None
            }
            Op::Restart(dying) => {
                // A waiter sees the connection end, and gets no answer.
                self.waiters.clear();
                for vm in dying {
                    self.drop_lifelines(*vm, usize::MAX);
                }
                None
            }
        };
        self.answered.extend(outcome.map(|it| (call, it.unwrap_or_else(Answer::Refused))));
        self.serve();
        std::mem::take(&mut self.answered)
    }

    /// Returns the disks that a VM holds.
    pub(super) fn held_by(&self, vm: Vm) -> impl Iterator<Item = Disk> {
        self.locks.keys().filter(move |(who, _)| *who == vm).map(|(_, disk)| *disk)
    }

    /// How a disk's byte is locked.
    pub(super) fn byte(&self, disk: Disk) -> Option<Mode> {
        self.locks.iter().filter(|((_, which), _)| *which == disk).map(|(_, lock)| lock.mode).max()
    }

    /// Whether a machine is not open yet, and waits for what it is to hold.
    pub(super) fn is_opening(&self, vm: Vm) -> bool {
        let opens = |waiter: &Waiter| waiter.vm == vm && matches!(waiter.what, What::Open(..));
        self.waiters.iter().any(opens)
    }

    pub(super) fn living(&mut self, vm: Vm) -> Result<&mut Owner, RefusalReason> {
        self.owners.get_mut(&vm).ok_or(RefusalReason::NoSuchOwner)
    }

    fn open(
        &mut self,
        call: usize,
        vm: Vm,
        anchor: Anchor,
        disk_requests: &[DiskRequest],
        wait: Wait,
    ) -> Option<Outcome> {
        if self.owners.contains_key(&vm) || self.is_opening(vm) {
            return Some(Err(RefusalReason::OwnerExists));
        }
        self.ask(call, vm, What::Open(anchor, disk_requests.to_vec()), wait)
    }

    /// Grants all requested disks, or none. `place` is the step of a waiting request.
    pub(super) fn attempt(&mut self, vm: Vm, what: &What, place: Option<usize>) -> Outcome {
        match what {
            What::Open(anchor, disk_requests) => {
                let given = self.grant(vm, disk_requests, what, place)?;
                let manual = *anchor == Anchor::Manual;
                let owner = Owner { lifelines: usize::from(!manual), manual, ..Owner::default() };
                self.owners.insert(vm, owner);
                Ok(given)
            }
            What::Acquire(disk_requests) => self.grant(vm, disk_requests, what, place),
            What::Resume(disk_requests) => {
                self.grant(vm, disk_requests, what, place)?;
                Ok(self.resumed_with(vm, disk_requests))
            }
            What::Upgrade(disk) => {
                self.refusal(vm, what, place)?;
                self.set_mode(vm, *disk, Mode::Exclusive)
            }
        }
    }

    fn grant(
        &mut self,
        vm: Vm,
        disk_requests: &[DiskRequest],
        what: &What,
        place: Option<usize>,
    ) -> Outcome {
        for (n, disk_request) in disk_requests.iter().enumerate() {
            if let Some(twin) =
                disk_requests[..n].iter().find(|earlier| earlier.disk == disk_request.disk)
            {
                if twin.mode != disk_request.mode {
                    return Err(RefusalReason::TwoModes);
                }
            } else if let Some(lock) = self.locks.get(&(vm, disk_request.disk))
                && lock.mode != disk_request.mode
            {
                return Err(RefusalReason::OtherMode(disk_request.disk, lock.mode));
            }
        }
        self.refusal(vm, what, place)?;
        for disk_request in disk_requests {
            if !self.locks.contains_key(&(vm, disk_request.disk)) {
                self.insert_lock(vm, *disk_request);
            }
        }
        Ok(Answer::Locks(
            disk_requests.iter().map(|disk_request| (vm, disk_request.disk)).collect(),
        ))
    }

    fn convert(
        &mut self,
        call: usize,
        vm: Vm,
        disk: Disk,
        mode: Mode,
        wait: Wait,
    ) -> Option<Outcome> {
        let held = self.locks.get(&(vm, disk)).map(|lock| lock.mode);
        match (held, mode) {
            (None, _) => Some(Err(RefusalReason::NoSuchLock)),
            (Some(Mode::Shared), Mode::Exclusive) => self.ask(call, vm, What::Upgrade(disk), wait),
            (Some(_), mode) => Some(self.set_mode(vm, disk, mode)),
        }
    }

    fn set_mode(&mut self, vm: Vm, disk: Disk, mode: Mode) -> Outcome {
        self.locks.get_mut(&(vm, disk)).ok_or(RefusalReason::NoSuchLock)?.mode = mode;
        Ok(Answer::Done)
    }

    /// Inserts a new lock.
    pub(super) fn insert_lock(
        &mut self,
        vm: Vm,
        DiskRequest { disk, spelling, mode }: DiskRequest,
    ) {
        self.born += 1;
        self.locks.insert((vm, disk), Lock { mode, spelling, born: self.born });
    }

    /// Takes locks away from a machine; tells what they were, the oldest first.
    pub(super) fn take(&mut self, vm: Vm, disks: &[Disk], why: &RefusalReason) -> Vec<DiskRequest> {
        let mut taken: Vec<(usize, DiskRequest)> = Vec::new();
        for disk in disks {
            let Some(Lock { mode, spelling, born }) = self.locks.remove(&(vm, *disk)) else {
                continue;
            };
            taken.push((born, DiskRequest { disk: *disk, spelling, mode }));
            if let Some(owner) = self.owners.get_mut(&vm) {
                owner.came_from.remove(disk);
            }
        }
        taken.sort_by_key(|(born, _)| *born);
        // An upgrade cannot wait for a lock that is gone.
        self.withdraw(why, |waiter| {
            waiter.vm == vm && matches!(waiter.what, What::Upgrade(disk) if disks.contains(&disk))
        });
        taken.into_iter().map(|(_, disk_request)| disk_request).collect()
    }

    fn release(&mut self, vm: Vm, disks: &[Disk], by: By) -> Outcome {
        self.living(vm)?;
        if !disks.iter().all(|disk| self.locks.contains_key(&(vm, *disk))) {
            return Err(RefusalReason::NoSuchLock);
        }
        if by == By::Another && !disks.is_empty() {
            return Err(RefusalReason::NeedsForce);
        }
        self.take(vm, disks, &RefusalReason::NoSuchLock);
        Ok(Answer::Done)
    }

    fn cancel(&mut self, vm: Vm) -> Outcome {
        if !self.is_opening(vm) {
            self.living(vm)?;
        }
        let waited = self.waiters.iter().filter(|waiter| waiter.vm == vm).count();
        self.withdraw(&RefusalReason::Cancelled, |waiter| waiter.vm == vm);
        if let Some(owner) = self.owners.get_mut(&vm).filter(|owner| owner.offers) {
            owner.offers = false;
            self.end_if_left(vm);
        }
        Ok(Answer::Withdrawn(waited))
    }

    /// Returns whether a caller may take over all disks of a VM.
    pub(super) fn may_take(&mut self, vm: Vm, by: By) -> Result<(), RefusalReason> {
        self.living(vm)?;
        let holds = self.held_by(vm).next().is_some();
        if by == By::Another && holds { Err(RefusalReason::NeedsForce) } else { Ok(()) }
    }

    fn close(&mut self, vm: Vm, by: By) -> Outcome {
        self.may_take(vm, by)?;
        self.end(vm, by == By::Itself);
        Ok(Answer::Done)
    }

    fn drop_lifelines(&mut self, vm: Vm, how_many: usize) -> Option<Outcome> {
        if let Some(owner) = self.owners.get_mut(&vm)
            && owner.lifelines > 0
        {
            owner.lifelines = owner.lifelines.saturating_sub(how_many);
            self.end_if_left(vm);
        }
        None
    }

    /// Ends a VM that has no anchor, and whose locks are not about to be adopted.
    pub(super) fn end_if_left(&mut self, vm: Vm) {
        let left = |owner: &Owner| owner.lifelines == 0 && !owner.manual && !owner.offers;
        if self.owners.get(&vm).is_some_and(left) {
            self.end(vm, true);
        }
    }

    fn end(&mut self, vm: Vm, gives_back: bool) {
        self.withdraw(&RefusalReason::OwnerGone, |waiter| waiter.vm == vm);
        if gives_back {
            self.return_locks(vm);
        }
        self.owners.remove(&vm);
        self.locks.retain(|(who, _), _| *who != vm);
    }
}

//! The model's machines that are suspended, or move: what they remember, and what comes back to them.

use super::answer::{Answer, RefusalReason};
use super::op::{By, Disk, DiskRequest, Vm, Wait};
use super::queue::What;
use super::reference::{Outcome, ReferenceModel};

/// Returns an answer in which the order of the locks is not significant.
fn in_any_order(locks: impl Iterator<Item = (Vm, Disk)>) -> Answer {
    let mut locks: Vec<(Vm, Disk)> = locks.collect();
    locks.sort_unstable();
    Answer::Locks(locks)
}

impl ReferenceModel {
    /// Refuses what a machine that is suspended may not ask for.
    pub(super) fn running(&mut self, vm: Vm) -> Result<(), RefusalReason> {
        if self.living(vm)?.suspended.is_empty() { Ok(()) } else { Err(RefusalReason::Suspended) }
    }

    pub(super) fn suspend(&mut self, vm: Vm, by: By) -> Outcome {
        self.may_take(vm, by)?;
        if self.living(vm)?.offers {
            return Err(RefusalReason::OfferedAlready);
        }
        self.withdraw(&RefusalReason::Cancelled, |waiter| waiter.vm == vm);
        let held: Vec<Disk> = self.held_by(vm).collect();
        let taken = self.take(vm, &held, &RefusalReason::Cancelled);
        self.living(vm)?.suspended.extend(taken);
        Ok(Answer::Done)
    }

    pub(super) fn resume(&mut self, call: usize, vm: Vm, wait: Wait) -> Option<Outcome> {
        let remembered = match self.living(vm) {
            Ok(owner) => owner.suspended.clone(),
            Err(why) => return Some(Err(why)),
        };
        if remembered.is_empty() {
            return Some(Ok(Answer::Locks(Vec::new())));
        }
        self.ask(call, vm, What::Resume(remembered), wait)
    }

    /// A machine has again what it remembered: it is owed nothing any more.
    pub(super) fn resumed_with(&mut self, vm: Vm, disk_requests: &[DiskRequest]) -> Answer {
        self.resumed(vm);
        in_any_order(disk_requests.iter().map(|disk_request| (vm, disk_request.disk)))
    }

    fn resumed(&mut self, vm: Vm) {
        if let Some(owner) = self.owners.get_mut(&vm) {
            owner.suspended.clear();
            owner.handed_to = None;
        }
        for owner in self.owners.values_mut() {
            owner.came_from.retain(|_, whose| *whose != vm);
        }
    }

    pub(super) fn offer(&mut self, vm: Vm, by: By, lasting: bool) -> Outcome {
        self.may_take(vm, by)?;
        if self.living(vm)?.offers {
            return Err(RefusalReason::OfferedAlready);
        }
        if self.held_by(vm).next().is_none() {
            return Err(RefusalReason::NothingToOffer);
        }
        self.living(vm)?.offers = lasting;
        Ok(Answer::Done)
    }

    pub(super) fn adopt(&mut self, to: Vm, from: Vm) -> Outcome {
        if !self.owners.get(&from).is_some_and(|owner| owner.offers) {
            return Err(RefusalReason::NoSuchOffer);
        }
        if from == to {
            return Err(RefusalReason::OwnOffer);
        }
        self.running(to)?;
        let held: Vec<Disk> = self.held_by(from).collect();
        if held.is_empty() {
            return Err(RefusalReason::NothingToOffer);
        }
        if held.iter().any(|disk| self.locks.contains_key(&(to, *disk))) {
            return Err(RefusalReason::HeldTwice);
        }
        // A suspended VM waits for nothing.
        self.withdraw(&RefusalReason::Cancelled, |waiter| waiter.vm == from);
        let taken = self.take(from, &held, &RefusalReason::Cancelled);
        for disk_request in &taken {
            self.insert_lock(to, *disk_request);
            self.living(to)?.came_from.insert(disk_request.disk, from);
        }
        let source = self.living(from)?;
        source.suspended.clone_from(&taken);
        (source.offers, source.handed_to) = (false, Some(to));
        self.end_if_left(from);
        Ok(in_any_order(taken.iter().map(|disk_request| (to, disk_request.disk))))
    }

    /// A machine ends: what it has from others who remember it is theirs again.
    pub(super) fn return_locks(&mut self, vm: Vm) {
        let came_from = self.owners.get(&vm).map(|owner| owner.came_from.clone());
        let came_from = came_from.unwrap_or_default();
        let sources: Vec<Vm> = self.owners.keys().copied().collect();
        for to in sources {
            let source = &self.owners[&to];
            let back = came_from.iter().filter(|(_, whose)| **whose == to);
            let back: Vec<Disk> = back.map(|(disk, _)| *disk).collect();
            if source.handed_to != Some(vm) || source.suspended.is_empty() || back.is_empty() {
                continue;
            }
            // The VM runs again, and its request to resume has succeeded or failed.
            let taken = self.take(vm, &back, &RefusalReason::OwnerGone);
            for disk_request in taken {
                self.insert_lock(to, disk_request);
            }
            self.resumed(to);
        }
    }
}

//! The model: who holds what, as the rules say it, and nothing of how it is done.
//!
//! It knows no identity, no number and no stage: a step is done or refused, at once and as a whole.

use std::collections::{BTreeMap, BTreeSet};

use vmlockd::lock::Mode;

use super::answer::{Answer, Why};
use super::op::{Anchor, By, Disk, Op, Spelling, Vm, Wish};

/// A machine that is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) leases: usize,
    pub(super) manual: bool,
}

/// What a machine holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) mode: Mode,
    pub(super) spelling: Spelling,
    /// The how-manieth it is of all that were ever given: two locks with one number are one.
    pub(super) born: usize,
}

/// Who holds what.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) owners: BTreeMap<Vm, Owner>,
    pub(super) locks: BTreeMap<(Vm, Disk), Lock>,
    born: usize,
}

/// What comes of something that was asked for.
type Outcome = Result<Answer, Why>;

impl Book {
    /// Does a step, and tells which calls it answers, each by the number of its step.
    pub(super) fn apply(&mut self, call: usize, op: &Op) -> Vec<(usize, Answer)> {
        let outcome = match op {
            Op::Open { vm, anchor, wishes } => self.open(*vm, *anchor, wishes),
            Op::Hold(vm) => self.living(*vm).map(|owner| {
                owner.leases += 1;
                Answer::Done
            }),
            Op::Drop(vm) => {
                self.drop_leases(*vm, 1);
                return Vec::new();
            }
            Op::Acquire { vm, wishes } => self.acquire(*vm, wishes),
            Op::Release { vm, disks, by } => self.release(*vm, disks, *by),
            Op::Convert { vm, disk, mode } => self.convert(*vm, *disk, *mode),
            Op::Close { vm, by } => self.close(*vm, *by),
            Op::Restart(dying) => {
                for vm in dying {
                    self.drop_leases(*vm, usize::MAX);
                }
                return Vec::new();
            }
        };
        vec![(call, outcome.unwrap_or_else(Answer::Refused))]
    }

    /// What a machine holds.
    pub(super) fn held_by(&self, vm: Vm) -> impl Iterator<Item = Disk> {
        self.locks.keys().filter(move |(who, _)| *who == vm).map(|(_, disk)| *disk)
    }

    /// How a disk's byte is locked.
    pub(super) fn byte(&self, disk: Disk) -> Option<Mode> {
        self.locks.iter().filter(|((_, which), _)| *which == disk).map(|(_, lock)| lock.mode).max()
    }

    fn living(&mut self, vm: Vm) -> Result<&mut Owner, Why> {
        self.owners.get_mut(&vm).ok_or(Why::NoSuchOwner)
    }

    fn open(&mut self, vm: Vm, anchor: Anchor, wishes: &[Wish]) -> Outcome {
        if self.owners.contains_key(&vm) {
            return Err(Why::OwnerExists);
        }
        let owner = match anchor {
            Anchor::Lease => Owner { leases: 1, manual: false },
            Anchor::Manual => Owner { leases: 0, manual: true },
        };
        let given = self.give(vm, wishes)?;
        self.owners.insert(vm, owner);
        Ok(given)
    }

    fn acquire(&mut self, vm: Vm, wishes: &[Wish]) -> Outcome {
        self.living(vm)?;
        self.give(vm, wishes)
    }

    /// All that is asked for, or nothing.
    fn give(&mut self, vm: Vm, wishes: &[Wish]) -> Outcome {
        for (n, wish) in wishes.iter().enumerate() {
            if let Some(twin) = wishes[..n].iter().find(|earlier| earlier.disk == wish.disk) {
                if twin.mode != wish.mode {
                    return Err(Why::TwoModes);
                }
            } else if let Some(lock) = self.locks.get(&(vm, wish.disk))
                && lock.mode != wish.mode
            {
                return Err(Why::OtherMode(wish.disk, lock.mode));
            }
        }
        for wish in wishes {
            self.refuse_if_held(vm, wish.disk, wish.mode)?;
        }
        for wish in wishes {
            let lock = Lock { mode: wish.mode, spelling: wish.spelling, born: self.born };
            self.locks.entry((vm, wish.disk)).or_insert_with(|| {
                self.born += 1;
                lock
            });
        }
        Ok(Answer::Locks(wishes.iter().map(|wish| (vm, wish.disk)).collect()))
    }

    fn refuse_if_held(&self, vm: Vm, disk: Disk, mode: Mode) -> Result<(), Why> {
        let of_others = self.locks.iter().filter(|((who, which), _)| *who != vm && *which == disk);
        let holders: BTreeSet<(Vm, Mode)> = of_others
            .filter(|(_, lock)| lock.mode == Mode::Exclusive || mode == Mode::Exclusive)
            .map(|((who, _), lock)| (*who, lock.mode))
            .collect();
        if holders.is_empty() { Ok(()) } else { Err(Why::Held(disk, holders)) }
    }

    fn release(&mut self, vm: Vm, disks: &[Disk], by: By) -> Outcome {
        self.living(vm)?;
        if !disks.iter().all(|disk| self.locks.contains_key(&(vm, *disk))) {
            return Err(Why::NoSuchLock);
        }
        if by == By::Another && !disks.is_empty() {
            return Err(Why::NeedsForce);
        }
        self.locks.retain(|(who, disk), _| *who != vm || !disks.contains(disk));
        Ok(Answer::Done)
    }

    fn convert(&mut self, vm: Vm, disk: Disk, mode: Mode) -> Outcome {
        let held = self.locks.get(&(vm, disk)).ok_or(Why::NoSuchLock)?.mode;
        if mode != held {
            self.refuse_if_held(vm, disk, mode)?;
        }
        if let Some(lock) = self.locks.get_mut(&(vm, disk)) {
            lock.mode = mode;
        }
        Ok(Answer::Done)
    }

    fn close(&mut self, vm: Vm, by: By) -> Outcome {
        self.living(vm)?;
        if by == By::Another && self.held_by(vm).next().is_some() {
            return Err(Why::NeedsForce);
        }
        self.end(vm);
        Ok(Answer::Done)
    }

    fn drop_leases(&mut self, vm: Vm, how_many: usize) {
        if let Some(owner) = self.owners.get_mut(&vm)
            && owner.leases > 0
        {
            owner.leases = owner.leases.saturating_sub(how_many);
            if owner.leases == 0 && !owner.manual {
                self.end(vm);
            }
        }
    }

    fn end(&mut self, vm: Vm) {
        self.owners.remove(&vm);
        self.locks.retain(|(who, _), _| *who != vm);
    }
}

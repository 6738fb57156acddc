//! Which number each lock has: never used twice, and the lock's for all of its life.

use std::collections::BTreeMap;

use super::op::{Disk, Vm};
use super::reference::ReferenceModel;

/// The numbers that were seen.
#[derive(Debug, Default)]
pub(super) struct LockNumbers {
    /// By what is locked; with the model's number, and still there when the lock is gone.
    numbers: BTreeMap<(Vm, Disk), (usize, u64)>,
    last: u64,
}

impl LockNumbers {
    /// The number by which a lock is asked for; of one that is gone the one that it had.
    pub(super) fn of(&self, vm: Vm, disk: Disk) -> u64 {
        self.numbers.get(&(vm, disk)).map_or(u64::MAX, |(_, number)| *number)
    }

    /// Takes note of what is held now.
    pub(super) fn learn(
        &mut self,
        reference: &ReferenceModel,
        now: &BTreeMap<(Vm, Disk), u64>,
    ) -> Result<(), String> {
        let before = self.last;
        for (place, lock) in &reference.locks {
            let Some(number) = now.get(place) else { continue };
            let (vm, disk) = place;
            let known = self.numbers.get(place).filter(|(born, _)| *born == lock.born);
            match known {
                Some((_, known)) if known != number => {
                    return Err(format!("{vm}'s lock on {disk} was {known}, and is {number}"));
                }
                None if *number <= before => {
                    return Err(format!("{vm}'s new lock on {disk} has the old number {number}"));
                }
                _ => {}
            }
            self.numbers.insert(*place, (lock.born, *number));
            self.last = self.last.max(*number);
        }
        Ok(())
    }
}

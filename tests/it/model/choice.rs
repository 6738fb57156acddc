//! Which step comes next: by chance, but such that mostly something comes of it.

use vmlockd::lock::Mode;

use super::book::Book;
use super::op::{Anchor, By, DISKS, Disk, Op, Spelling, VMS, Vm, Wait, Wish};
use crate::soak::dice::Dice;

/// A sequence of steps.
pub(super) fn sequence(dice: &Dice, steps: usize) -> Vec<Op> {
    let mut book = Book::default();
    let mut ops = Vec::with_capacity(steps);
    for number in 0..steps {
        let op = step(dice, &book);
        if book.permits(&op) {
            book.apply(number, &op);
        }
        ops.push(op);
    }
    ops
}

fn step(dice: &Dice, book: &Book) -> Op {
    let vm = vm(dice, book);
    match dice.below(100) {
        0..12 => {
            let anchor = if dice.chance(85) { Anchor::Lifeline } else { Anchor::Manual };
            let (wishes, wait) = (wishes(dice, 0), wait(dice));
            Op::Open { vm: absent(dice, book), anchor, wishes, wait }
        }
        12..17 => Op::NewLifeline(vm),
        17..26 => Op::Drop(vm),
        26..46 => Op::Acquire { vm, wishes: wishes(dice, 1), wait: wait(dice) },
        46..49 => Op::Suspend { vm, by: by(dice) },
        49..52 => Op::Resume { vm: suspended(dice, book), wait: wait(dice) },
        52..55 => Op::Offer { vm, by: by(dice), lasting: dice.chance(85) },
        55..60 => Op::Adopt { vm, from: offering(dice, book) },
        60..74 => Op::Release { vm, disks: disks(dice, book, vm), by: by(dice) },
        74..84 => {
            let disk = held(dice, book, vm);
            let other = match book.locks.get(&(vm, disk)).map(|lock| lock.mode) {
                Some(Mode::Shared) => Mode::Exclusive,
                Some(Mode::Exclusive) => Mode::Shared,
                Some(Mode::None) | None => mode(dice),
            };
            let mode = if dice.chance(90) { other } else { mode(dice) };
            Op::Convert { vm, disk, mode, wait: wait(dice) }
        }
        84..87 => Op::Cancel(waiting(dice, book)),
        87..90 => Op::Leave(waiting(dice, book)),
        90..95 => Op::Close { vm, by: by(dice) },
        _ => {
            let dying = if dice.chance(30) { vec![vm] } else { Vec::new() };
            Op::Restart(dying)
        }
    }
}

/// Any machine; mostly one that is there.
fn vm(dice: &Dice, book: &Book) -> Vm {
    let there: Vec<Vm> = book.owners.keys().copied().collect();
    if there.is_empty() || dice.chance(3) {
        Vm(dice.below(VMS))
    } else {
        there[dice.below(there.len())]
    }
}

/// A machine that waits, if there is one.
fn waiting(dice: &Dice, book: &Book) -> Vm {
    match book.waiters.len() {
        0 => vm(dice, book),
        count => book.waiters[dice.below(count)].vm,
    }
}

/// A machine that remembers something, if there is one.
fn suspended(dice: &Dice, book: &Book) -> Vm {
    let suspended = book.owners.iter().filter(|(_, owner)| !owner.suspended.is_empty());
    let suspended: Vec<Vm> = suspended.map(|(vm, _)| *vm).collect();
    if suspended.is_empty() { vm(dice, book) } else { suspended[dice.below(suspended.len())] }
}

/// A machine that offers something, if there is one.
fn offering(dice: &Dice, book: &Book) -> Vm {
    let offering = book.owners.iter().filter(|(_, owner)| owner.offers);
    let offering: Vec<Vm> = offering.map(|(vm, _)| *vm).collect();
    if offering.is_empty() { vm(dice, book) } else { offering[dice.below(offering.len())] }
}

/// Any machine; mostly one that is not there.
fn absent(dice: &Dice, book: &Book) -> Vm {
    let absent: Vec<Vm> = (0..VMS).map(Vm).filter(|vm| !book.owners.contains_key(vm)).collect();
    if absent.is_empty() || dice.chance(10) {
        Vm(dice.below(VMS))
    } else {
        absent[dice.below(absent.len())]
    }
}

fn mode(dice: &Dice) -> Mode {
    if dice.chance(50) { Mode::Shared } else { Mode::Exclusive }
}

fn wait(dice: &Dice) -> Wait {
    match dice.below(10) {
        0..5 => Wait::Long,
        5 => Wait::Over,
        _ => Wait::No,
    }
}

fn by(dice: &Dice) -> By {
    match dice.below(10) {
        0 => By::Another,
        1 => By::Force,
        _ => By::Itself,
    }
}

/// What a machine asks for: one disk mostly, sometimes more, now and then one of them twice.
fn wishes(dice: &Dice, least: usize) -> Vec<Wish> {
    let more = match dice.below(10) {
        0..5 => 0,
        5..8 => 1,
        8..9 => 2,
        _ => 3,
    };
    let one = |_| {
        let spelling = match dice.below(4) {
            0 => Spelling::Alias,
            1 => Spelling::Open,
            _ => Spelling::Name,
        };
        Wish { disk: Disk(dice.below(DISKS)), spelling, mode: mode(dice) }
    };
    (0..least + more).map(one).collect()
}

/// A disk; mostly one that a machine holds.
fn held(dice: &Dice, book: &Book, vm: Vm) -> Disk {
    let held: Vec<Disk> = book.held_by(vm).collect();
    if held.is_empty() || dice.chance(3) {
        Disk(dice.below(DISKS))
    } else {
        held[dice.below(held.len())]
    }
}

/// Disks that a machine holds, mostly.
fn disks(dice: &Dice, book: &Book, vm: Vm) -> Vec<Disk> {
    let held: Vec<Disk> = book.held_by(vm).collect();
    if dice.chance(5) { vec![Disk(dice.below(DISKS))] } else { dice.some(&held, DISKS) }
}

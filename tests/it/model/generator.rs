//! Which step comes next: by chance, but such that mostly something comes of it.

use vmlockd::lock::Mode;

use super::op::{Anchor, By, DISKS, Disk, DiskRequest, Op, Spelling, VMS, Vm, Wait};
use super::reference::ReferenceModel;
use crate::fixture::rng::Rng;

/// A sequence of steps.
pub(super) fn sequence(rng: &Rng, steps: usize) -> Vec<Op> {
    let mut reference = ReferenceModel::default();
    let mut ops = Vec::with_capacity(steps);
    for number in 0..steps {
        let op = step(rng, &reference);
        if reference.permits(&op) {
            reference.apply(number, &op);
        }
        ops.push(op);
    }
    ops
}

fn step(rng: &Rng, reference: &ReferenceModel) -> Op {
    let vm = vm(rng, reference);
    match rng.below(100) {
        0..12 => {
            let anchor = if rng.chance(85) { Anchor::Lifeline } else { Anchor::Manual };
            let (disk_requests, wait) = (disk_requests(rng, 0), wait(rng));
            Op::Open { vm: absent(rng, reference), anchor, disk_requests, wait }
        }
        12..17 => Op::NewLifeline(vm),
        17..26 => Op::Drop(vm),
        26..46 => Op::Acquire { vm, disk_requests: disk_requests(rng, 1), wait: wait(rng) },
        46..49 => Op::Suspend { vm, by: by(rng) },
        49..52 => Op::Resume { vm: suspended(rng, reference), wait: wait(rng) },
        52..55 => Op::Offer { vm, by: by(rng), lasting: rng.chance(85) },
        55..60 => Op::Adopt { vm, from: offering(rng, reference) },
        60..74 => Op::Release { vm, disks: disks(rng, reference, vm), by: by(rng) },
        74..84 => {
            let disk = held(rng, reference, vm);
            let other = match reference.locks.get(&(vm, disk)).map(|lock| lock.mode) {
                Some(Mode::Shared) => Mode::Exclusive,
                Some(Mode::Exclusive) => Mode::Shared,
                Some(Mode::None) | None => mode(rng),
            };
            let mode = if rng.chance(90) { other } else { mode(rng) };
            Op::Convert { vm, disk, mode, wait: wait(rng) }
        }
        84..87 => Op::Cancel(waiting(rng, reference)),
        87..90 => Op::Leave(waiting(rng, reference)),
        90..95 => Op::Close { vm, by: by(rng) },
        _ => {
            let dying = if rng.chance(30) { vec![vm] } else { Vec::new() };
            Op::Restart(dying)
        }
    }
}

/// Any machine; mostly one that is there.
fn vm(rng: &Rng, reference: &ReferenceModel) -> Vm {
    let there: Vec<Vm> = reference.owners.keys().copied().collect();
    if there.is_empty() || rng.chance(3) {
        Vm(rng.below(VMS))
    } else {
        there[rng.below(there.len())]
    }
}

/// A machine that waits, if there is one.
fn waiting(rng: &Rng, reference: &ReferenceModel) -> Vm {
    match reference.waiters.len() {
        0 => vm(rng, reference),
        count => reference.waiters[rng.below(count)].vm,
    }
}

/// A machine that remembers something, if there is one.
fn suspended(rng: &Rng, reference: &ReferenceModel) -> Vm {
    let suspended = reference.owners.iter().filter(|(_, owner)| !owner.suspended.is_empty());
    let suspended: Vec<Vm> = suspended.map(|(vm, _)| *vm).collect();
    if suspended.is_empty() { vm(rng, reference) } else { suspended[rng.below(suspended.len())] }
}

/// A machine that offers something, if there is one.
fn offering(rng: &Rng, reference: &ReferenceModel) -> Vm {
    let offering = reference.owners.iter().filter(|(_, owner)| owner.offers);
    let offering: Vec<Vm> = offering.map(|(vm, _)| *vm).collect();
    if offering.is_empty() { vm(rng, reference) } else { offering[rng.below(offering.len())] }
}

/// Any machine; mostly one that is not there.
fn absent(rng: &Rng, reference: &ReferenceModel) -> Vm {
    let absent: Vec<Vm> =
        (0..VMS).map(Vm).filter(|vm| !reference.owners.contains_key(vm)).collect();
    if absent.is_empty() || rng.chance(10) {
        Vm(rng.below(VMS))
    } else {
        absent[rng.below(absent.len())]
    }
}

fn mode(rng: &Rng) -> Mode {
    if rng.chance(50) { Mode::Shared } else { Mode::Exclusive }
}

fn wait(rng: &Rng) -> Wait {
    match rng.below(10) {
        0..5 => Wait::Long,
        5 => Wait::Over,
        _ => Wait::No,
    }
}

fn by(rng: &Rng) -> By {
    match rng.below(10) {
        0 => By::Another,
        1 => By::Force,
        _ => By::Itself,
    }
}

/// Generates the disks of a request: usually one, sometimes several, rarely one of them twice.
fn disk_requests(rng: &Rng, least: usize) -> Vec<DiskRequest> {
    let more = match rng.below(10) {
        0..5 => 0,
        5..8 => 1,
        8..9 => 2,
        _ => 3,
    };
    let one = |_| {
        let spelling = match rng.below(4) {
            0 => Spelling::Alias,
            1 => Spelling::Open,
            _ => Spelling::Name,
        };
        DiskRequest { disk: Disk(rng.below(DISKS)), spelling, mode: mode(rng) }
    };
    (0..least + more).map(one).collect()
}

/// A disk; mostly one that a machine holds.
fn held(rng: &Rng, reference: &ReferenceModel, vm: Vm) -> Disk {
    let held: Vec<Disk> = reference.held_by(vm).collect();
    if held.is_empty() || rng.chance(3) {
        Disk(rng.below(DISKS))
    } else {
        held[rng.below(held.len())]
    }
}

/// Disks that a machine holds, mostly.
fn disks(rng: &Rng, reference: &ReferenceModel, vm: Vm) -> Vec<Disk> {
    let held: Vec<Disk> = reference.held_by(vm).collect();
    if rng.chance(5) { vec![Disk(rng.below(DISKS))] } else { rng.some(&held, DISKS) }
}

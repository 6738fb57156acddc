//! What can be seen of it all from outside, of the model and of the service alike.

use std::collections::BTreeMap;
use std::fmt;

use vmlockd::lock::{Anchor, Mode, Proof};

use super::book::Book;
use super::life::Life;
use super::op::{DISKS, Disk, Vm};
use super::scene::{self, Scene};

/// Who there is, who holds what, and what the kernel says of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) owners: BTreeMap<Vm, Kept>,
    pub(super) locks: BTreeMap<(Vm, Disk), Held>,
    bytes: [Option<Mode>; DISKS],
    /// What contradicts itself.
    pub(super) odd: Vec<String>,
}

/// What keeps an owner.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    leases: usize,
    manual: bool,
}

/// How a disk is held, and by which name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    mode: Mode,
    name: String,
}

impl View {
    /// As it should be.
    pub(super) fn of_book(book: &Book, scene: &Scene) -> Self {
        let kept = |(vm, owner): (&Vm, &super::book::Owner)| {
            (*vm, Kept { leases: owner.leases, manual: owner.manual })
        };
        let held = |((vm, disk), lock): (&(Vm, Disk), &super::book::Lock)| {
            let name = scene.name(*disk, lock.spelling).to_str().unwrap().to_owned();
            ((*vm, *disk), Held { mode: lock.mode, name })
        };
        Self {
            owners: book.owners.iter().map(kept).collect(),
            locks: book.locks.iter().map(held).collect(),
            bytes: std::array::from_fn(|disk| book.byte(Disk(disk))),
            odd: Vec::new(),
        }
    }

    /// As it is; and each lock's number.
    pub(super) fn of_life(life: &Life, scene: &Scene) -> (Self, BTreeMap<(Vm, Disk), u64>) {
        let (mut owners, mut locks) = (BTreeMap::new(), BTreeMap::new());
        let (mut numbers, mut odd) = (BTreeMap::new(), Vec::new());
        for (owner, held) in life.service.owners_and_locks() {
            let anchors = || owner.anchors.values();
            let kept = Kept {
                leases: anchors().filter(|anchor| **anchor == Anchor::Lease).count(),
                manual: anchors().any(|anchor| *anchor == Anchor::Manual),
            };
            if owner.locks.len() != held.len() {
                odd.push(format!("{} has locks that are not held: {:?}", owner.id, owner.locks));
            }
            owners.insert(scene::vm(owner.id), kept);
        }
        let all = life.service.locks();
        for lock in &all {
            let (vm, name) = (scene::vm(lock.owner), lock.want.resource.clone());
            if lock.proof != Proof::Verified {
                odd.push(format!("lock {} on {name} is {:?}", lock.id, lock.proof));
            }
            let Some(disk) = scene.disk(&name) else {
                odd.push(format!("lock {} is on {name}, which nobody asked for", lock.id));
                continue;
            };
            if numbers.insert((vm, disk), lock.id).is_some() {
                odd.push(format!("{vm} has {disk} twice"));
            }
            locks.insert((vm, disk), Held { mode: lock.want.mode, name });
        }
        {
            let heard = life.heard.lock().unwrap();
            odd.extend(heard.nonsense.iter().cloned());
            let of = |lock: &vmlockd::lock::Lock| (lock.id, (lock.owner, lock.want.mode));
            if heard.locks != all.iter().map(of).collect() {
                odd.push(format!("the world was told of other locks: {:?}", heard.locks));
            }
            if !heard.owners.iter().map(|id| scene::vm(*id)).eq(owners.keys().copied()) {
                odd.push(format!("the world was told of other owners: {:?}", heard.owners));
            }
        }
        (Self { owners, locks, bytes: scene.bytes(), odd }, numbers)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (vm, Kept { leases, manual }) in &self.owners {
            let manual = if *manual { ", manual" } else { "" };
            write!(f, "  {vm}, {leases} leases{manual}:")?;
            for ((_, disk), held) in self.locks.iter().filter(|((who, _), _)| who == vm) {
                let name = held.name.rsplit('/').next().unwrap_or_default();
                write!(f, " {disk} {} as {name};", held.mode)?;
            }
            writeln!(f)?;
        }
        let byte = |mode: &Option<Mode>| mode.map_or("free", Mode::as_str);
        writeln!(f, "  bytes: {}", self.bytes.iter().map(byte).collect::<Vec<_>>().join(", "))?;
        self.odd.iter().try_for_each(|odd| writeln!(f, "  {odd}"))
    }
}

//! The externally visible state, of the model and of the service alike.

use std::collections::BTreeMap;
use std::fmt;

use vmlockd::lock::table::queue::Status;
use vmlockd::lock::{Anchor, Mode, Proof};
use vmlockd::service::facade::list::{Filter, WaitingRow};

use super::instance::ServiceInstance;
use super::op::{DISKS, Disk, DiskRequest, Vm, list};
use super::queue::Waiter;
use super::reference::ReferenceModel;
use super::scenario::{self, Scenario};

/// A waiter, its kind, and the requested disks.
type Waiting = (Vm, &'static str, Vec<(Disk, Mode)>);

/// The owners, their locks, and the locks of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) owners: BTreeMap<Vm, OwnerView>,
    pub(super) locks: BTreeMap<(Vm, Disk), LockView>,
    /// In order: who waits, and for what.
    waiting: Vec<Waiting>,
    bytes: [Option<Mode>; DISKS],
    /// Contradictions.
    pub(super) odd: Vec<String>,
}

/// The state of an owner.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OwnerView {
    lifelines: usize,
    manual: bool,
    /// The suspended disks, and their names.
    suspended: Vec<(Disk, Mode, String)>,
    offers: bool,
}

/// How a disk is held, and by which name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LockView {
    mode: Mode,
    name: String,
    /// How many wait for the disk.
    waiting: usize,
}

impl OwnerView {
    fn in_order(mut self) -> Self {
        self.suspended.sort_unstable();
        self
    }
}

impl View {
    /// As it should be.
    pub(super) fn of_model(reference: &ReferenceModel, scenario: &Scenario) -> Self {
        let path = |disk, spelling| scenario.name(disk, spelling).to_str().unwrap().to_owned();
        let kept = |(vm, owner): (&Vm, &super::reference::Owner)| {
            let remembered = |disk_request: &DiskRequest| {
                (
                    disk_request.disk,
                    disk_request.mode,
                    path(disk_request.disk, disk_request.spelling),
                )
            };
            let suspended = owner.suspended.iter().map(remembered).collect();
            let (lifelines, manual, offers) = (owner.lifelines, owner.manual, owner.offers);
            (*vm, OwnerView { lifelines, manual, suspended, offers }.in_order())
        };
        let held = |((vm, disk), lock): (&(Vm, Disk), &super::reference::Lock)| {
            let name = path(*disk, lock.spelling);
            let wants =
                |waiter: &&Waiter| waiter.what.wants().iter().any(|(which, _)| which == disk);
            let waiting = reference.waiters.iter().filter(wants).count();
            ((*vm, *disk), LockView { mode: lock.mode, name, waiting })
        };
        Self {
            owners: reference.owners.iter().map(kept).collect(),
            locks: reference.locks.iter().map(held).collect(),
            waiting: reference
                .waiters
                .iter()
                .map(|waiter| {
                    let mut wants = waiter.what.wants();
                    wants.sort_unstable();
                    (waiter.vm, waiter.what.purpose(), wants)
                })
                .collect(),
            bytes: std::array::from_fn(|disk| reference.byte(Disk(disk))),
            odd: Vec::new(),
        }
    }

    /// As it is; and each lock's number.
    pub(super) fn of_service(
        life: &ServiceInstance,
        scenario: &Scenario,
    ) -> (Self, BTreeMap<(Vm, Disk), u64>) {
        let (mut owners, mut locks) = (BTreeMap::new(), BTreeMap::new());
        let (mut numbers, mut odd) = (BTreeMap::new(), Vec::new());
        for (owner, held) in life.service.owners_and_locks() {
            let anchors = || owner.anchors.values();
            let kept = OwnerView {
                lifelines: anchors().filter(|anchor| **anchor == Anchor::Lifeline).count(),
                manual: anchors().any(|anchor| *anchor == Anchor::Manual),
                suspended: owner
                    .suspended
                    .values()
                    .filter_map(|want| {
                        Some((scenario.disk(&want.resource)?, want.mode, want.resource.clone()))
                    })
                    .collect(),
                offers: owner.offer.is_some(),
            };
            if owner.locks.len() != held.len() {
                odd.push(format!("{} has locks that are not held: {:?}", owner.id, owner.locks));
            }
            owners.insert(scenario::vm(owner.id), kept.in_order());
        }
        let all = life.service.locks();
        for lock in &all {
            let (vm, name) = (scenario::vm(lock.owner), lock.want.resource.clone());
            if lock.proof != Proof::Verified {
                odd.push(format!("lock {} on {name} is {:?}", lock.id, lock.proof));
            }
            let Some(disk) = scenario.disk(&name) else {
                odd.push(format!("lock {} is on {name}, which nobody asked for", lock.id));
                continue;
            };
            if numbers.insert((vm, disk), lock.id).is_some() {
                odd.push(format!("{vm} has {disk} twice"));
            }
            let waiting = life.service.waiting_for(lock.id, |_| true);
            locks.insert((vm, disk), LockView { mode: lock.want.mode, name, waiting });
        }
        {
            let observed = life.observed.lock().unwrap();
            odd.extend(observed.nonsense.iter().cloned());
            let of = |lock: &vmlockd::lock::Lock| (lock.id, (lock.owner, lock.want.mode));
            if observed.locks != all.iter().map(of).collect() {
                odd.push(format!("the world was told of other locks: {:?}", observed.locks));
            }
            if !observed.owners.iter().map(|id| scenario::vm(*id)).eq(owners.keys().copied()) {
                odd.push(format!("the world was told of other owners: {:?}", observed.owners));
            }
        }
        let waiting = life
            .service
            .list_waiting(&Filter::default())
            .into_iter()
            .map(|WaitingRow { waiter, .. }| {
                if waiter.status != Status::Waiting {
                    odd.push(format!("somebody who waits is {:?}", waiter.status));
                }
                let wants = waiter.wants.iter();
                let wants =
                    wants.filter_map(|want| Some((scenario.disk(&want.resource)?, want.mode)));
                let mut wants: Vec<_> = wants.collect();
                wants.sort_unstable();
                (scenario::vm(waiter.owner), waiter.purpose.as_str(), wants)
            })
            .collect();
        (Self { owners, locks, waiting, bytes: scenario.bytes(), odd }, numbers)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (vm, OwnerView { lifelines, manual, suspended, offers }) in &self.owners {
            let manual = if *manual { ", manual" } else { "" };
            let offers = if *offers { ", offers" } else { "" };
            write!(f, "  {vm}, {lifelines} lifelines{manual}{offers}:")?;
            for (disk, mode, _) in suspended {
                write!(f, " remembers {disk} {mode};")?;
            }
            for ((_, disk), held) in self.locks.iter().filter(|((who, _), _)| who == vm) {
                let name = held.name.rsplit('/').next().unwrap_or_default();
                write!(f, " {disk} {} as {name}, {} wait;", held.mode, held.waiting)?;
            }
            writeln!(f)?;
        }
        for (vm, what, wants) in &self.waiting {
            let wants = wants.iter().map(|(disk, mode)| format!("{disk} {mode}"));
            writeln!(f, "  {vm} waits ({what}) for {}", list(wants))?;
        }
        let byte = |mode: &Option<Mode>| mode.map_or("free", Mode::as_str);
        writeln!(f, "  bytes: {}", self.bytes.iter().map(byte).collect::<Vec<_>>().join(", "))?;
        self.odd.iter().try_for_each(|odd| writeln!(f, "  {odd}"))
    }
}

//! A client: it has one owner at a time, and knows what it was told.
//!
//! A call without an answer is asked again, until it is known what became of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use vmlockd::client::{ManagerProxy, Options, OwnerProxy};
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath};

use super::acknowledged::LockKey;
use super::retry::{CallError, ask, call_until_answered};
use super::scenario::Scenario;
use super::statistics::count;
use crate::dbus_client::{lock, manager, option};
use crate::fixture::rng::Rng;
use crate::fixture::{LockType, attempt};

/// How long a lock may stay whose owner has ended, also while the service was dead.
// Five seconds are what is wanted, and half a second is what is measured where nothing else runs
// (`make soak` prints it); beside other tests every step takes its time, and what leaks stays for ever.
pub(super) const ORPHANED: Duration = Duration::from_secs(15);

/// A disk and a mode.
pub(super) type DiskRequest = (String, &'static str);

/// The anchor of an owner.
pub(super) enum Anchor {
    /// Alive while it is open.
    Lifeline(#[allow(dead_code, reason = "what counts is that it is open")] OwnedFd),
    Process(u32),
}

pub(super) struct Client<'s> {
    pub(super) scenario: &'s Scenario,
    pub(super) rng: Rng,
    name: String,
    pub(super) uuid: String,
    /// The UUID of the owner that it transfers locks to.
    pub(super) other_uuid: String,
    bus: Connection,
    manager: ManagerProxy<'static>,
    /// Disks that no other client requests.
    pub(super) own: Vec<String>,
    owner: Option<OwnerProxy<'static>>,
    pub(super) anchors: Vec<Anchor>,
    /// When its last owner has ended, and what that held.
    ended: Option<Instant>,
    /// When the owner from which it moved was left without anchors. Until the service sees that,
    /// what the last owner held may go back to that one.
    pub(super) moved: Option<Instant>,
    left: Vec<OwnedObjectPath>,
}

fn words(disk_request: &[DiskRequest]) -> Vec<(&str, &str)> {
    disk_request.iter().map(|(disk, mode)| (disk.as_str(), *mode)).collect()
}

impl<'s> Client<'s> {
    pub(super) async fn new(scenario: &'s Scenario, who: u64, own: Vec<String>) -> Self {
        let bus = scenario.host.bus().await;
        let manager = manager(&bus).await;
        let name = format!("client{who}");
        let uuid = |n: u128| uuid::Uuid::from_u128(u128::from(who) + n).to_string();
        Self {
            scenario,
            rng: Rng::new(scenario.seed, who),
            name,
            uuid: uuid(1),
            other_uuid: uuid(1 << 64),
            bus,
            manager,
            own,
            owner: None,
            anchors: Vec::new(),
            ended: None,
            moved: None,
            left: Vec::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.owner.is_some()
    }

    pub(super) fn owner(&self) -> OwnerProxy<'static> {
        self.owner.clone().expect("it is open")
    }

    pub(super) fn path(&self) -> OwnedObjectPath {
        self.owner().inner().path().to_owned().into()
    }

    fn place(&self, disk: &str) -> LockKey {
        (self.path(), disk.to_owned())
    }

    /// Returns the held disks with their modes.
    pub(super) fn held(&self) -> Vec<DiskRequest> {
        let held = self.scenario.acknowledged.borrow().of(&self.path());
        held.into_iter().map(|((_, disk), entry)| (disk, entry.mode.unwrap())).collect()
    }

    pub(super) fn doubt(&self) {
        count(&self.scenario.statistics.doubts);
    }

    /// Opens its owner, by a lifeline or a process, with disks of its own or without. One of the same
    /// UUID that has ended must be out of the way in time.
    pub(super) async fn open(&mut self, disk_request: &[DiskRequest], by_process: bool) {
        let (path, anchor) = loop {
            let options = if disk_request.is_empty() {
                HashMap::new()
            } else {
                option("resources", words(disk_request))
            };
            let trouble = match self.try_open(options, by_process).await {
                Ok(opened) => break opened,
                Err(trouble) => trouble,
            };
            if matches!(trouble, CallError::Unanswered) {
                // It may be there, and has no anchor then.
                self.doubt();
                self.ended.get_or_insert_with(Instant::now);
                continue;
            }
            let since = if self.moved.is_some() && trouble.is_by(&self.other_uuid) {
                self.moved
            } else {
                assert!(trouble.is("OwnerExists"), "{}: {trouble:?}", self.name);
                self.ended
            };
            let late = since.expect("nobody else has this UUID").elapsed();
            assert!(late < ORPHANED, "{}: an owner that ended is there after {late:?}", self.name);
        };
        let moved = self.moved.take().is_some();
        if let Some(since) = self.ended.take() {
            let late = since.elapsed();
            assert!(late < ORPHANED, "{}: locks without an owner for {late:?}", self.name);
            self.scenario.statistics.orphaned.borrow_mut().push(late);
        }
        for lock in self.left.drain(..) {
            self.scenario.acknowledged.borrow_mut().bury(&lock);
        }
        count(&self.scenario.statistics.opened);
        self.owner = Some(self.proxy(path).await);
        self.anchors = vec![anchor];
        if !disk_request.is_empty() {
            // Which locks these are is told to a caller that asks again.
            assert!(self.acquire(disk_request).await);
        }
        let wanted = |disk: &&String| !disk_request.iter().any(|(wanted, _)| wanted == *disk);
        for disk in self.own.iter().filter(wanted) {
            if moved {
                // The owner from which its disks moved may have had them again until it ended.
                self.gets_free(disk).await;
            }
            self.is_free(disk);
        }
    }

    pub(super) async fn proxy(&self, path: OwnedObjectPath) -> OwnerProxy<'static> {
        // A proxy that remembers properties also remembers that it was given none.
        let owner = OwnerProxy::builder(&self.bus).path(path);
        owner.cache_properties(CacheProperties::No).build().await.unwrap()
    }

    pub(super) fn set_owner(&mut self, owner: OwnerProxy<'static>) {
        self.owner = Some(owner);
    }

    pub(super) async fn try_open(
        &self,
        options: Options<'_>,
        by_process: bool,
    ) -> Result<(OwnedObjectPath, Anchor), CallError> {
        if !by_process {
            let call = self.manager.open_owner(&self.uuid, &self.name, options);
            let (path, lifeline) = ask("OpenOwner", call).await?;
            return Ok((path, Anchor::Lifeline(lifeline.into())));
        }
        let process = self.scenario.process_pool.begin().await;
        let call = self.manager.register_owner(&self.uuid, &self.name, process, options);
        let opened = ask("RegisterOwner", call).await;
        if opened.is_err() {
            self.scenario.process_pool.end(process).await;
        }
        Ok((opened?, Anchor::Process(process)))
    }

    /// Acquires; false where another client has one of the disks that are for all.
    pub(super) async fn acquire(&mut self, disk_request: &[DiskRequest]) -> bool {
        let owner = self.owner();
        let mut doubted = false;
        loop {
            let wait = if self.rng.chance(25) { Self::brief() } else { HashMap::new() };
            match ask("Acquire", owner.acquire(&words(disk_request), wait)).await {
                Ok(locks) => {
                    assert_eq!(locks.len(), disk_request.len());
                    let mut acknowledged = self.scenario.acknowledged.borrow_mut();
                    for (lock, (disk, mode)) in locks.iter().zip(disk_request) {
                        acknowledged.acknowledge(&self.place(disk), lock, mode);
                    }
                    count(&self.scenario.statistics.acquired);
                    if !std::mem::take(&mut doubted) {
                        return true;
                    }
                    // Once more: in the same mode it has the same locks.
                }
                Err(CallError::Unanswered) => {
                    self.doubt();
                    doubted = true;
                }
                Err(refused) => {
                    let for_all = disk_request.iter().any(|(disk, _)| !self.own.contains(disk));
                    assert!(refused.is_of_others() && for_all, "{disk_request:?}: {refused:?}");
                    return false;
                }
            }
        }
    }

    /// Releases disks.
    pub(super) async fn release(&mut self, disks: &[String]) {
        let strike =
            |disk: &String| self.scenario.acknowledged.borrow_mut().strike(&self.place(disk));
        let struck = disks.iter().map(|disk| strike(disk).expect("it is held").lock);
        let (owner, all) = (self.owner(), struck.collect::<Vec<_>>());
        let (mut locks, mut doubted) = (all.clone(), false);
        while !locks.is_empty() {
            match ask("Release", owner.release(&locks, HashMap::new())).await {
                Ok(()) => break,
                Err(CallError::Unanswered) => self.doubt(),
                Err(refused) => assert!(doubted && refused.is("NoSuchLock"), "{refused:?}"),
            }
            // A release of several may have been done in part.
            doubted = true;
            let left = call_until_answered("Locks", || owner.locks()).await;
            locks.retain(|lock| left.contains(lock));
        }
        for lock in &all {
            self.scenario.acknowledged.borrow_mut().bury(lock);
        }
        count(&self.scenario.statistics.released);
        for disk in disks.iter().filter(|disk| self.own.contains(disk)) {
            if doubted {
                // It is off the list, and on its way.
                self.gets_free(disk).await;
            }
            self.is_free(disk);
        }
    }

    /// Changes the mode of a disk.
    pub(super) async fn convert(&mut self, disk: &str) {
        let place = self.place(disk);
        let entry = self.scenario.acknowledged.borrow().held()[&place].clone();
        let exclusive = entry.mode == Some("exclusive");
        let mode = if exclusive { "shared" } else { "exclusive" };
        self.scenario.acknowledged.borrow_mut().convert(&place, None);
        let proxy = lock(&self.bus, &entry.lock).await;
        let outcome = loop {
            let wait = if self.rng.chance(25) { Self::brief() } else { HashMap::new() };
            match ask("Convert", proxy.convert(mode, wait)).await {
                Ok(()) => break mode,
                Err(CallError::Unanswered) => self.doubt(),
                Err(refused) => {
                    let others = !exclusive && !self.own.iter().any(|own| own == disk);
                    assert!(refused.is_of_others() && others, "{disk}: {refused:?}");
                    break "shared";
                }
            }
        };
        count(&self.scenario.statistics.converted);
        self.scenario.acknowledged.borrow_mut().convert(&place, Some(outcome));
    }

    /// Gets another anchor.
    pub(super) async fn anchor(&mut self, by_process: bool) {
        let owner = self.owner();
        let process = if by_process { self.scenario.process_pool.begin().await } else { 0 };
        let anchor = loop {
            let anchored = if by_process {
                let call = owner.bind_pid(process, HashMap::new());
                ask("BindPID", call).await.map(|()| Anchor::Process(process))
            } else {
                let call = owner.new_lifeline(HashMap::new());
                ask("NewLifeline", call).await.map(|lifeline| Anchor::Lifeline(lifeline.into()))
            };
            match anchored {
                Ok(anchor) => break anchor,
                Err(CallError::Unanswered) => self.doubt(),
                Err(refused) => panic!("{}: {refused:?}", self.name),
            }
        };
        self.anchors.push(anchor);
    }

    /// Loses its oldest anchor, and lives on by another.
    pub(super) async fn shed(&mut self) {
        if self.anchors.len() > 1 {
            let anchor = self.anchors.remove(0);
            self.drop_anchors(vec![anchor]).await;
        }
    }

    pub(super) async fn drop_anchors(&self, anchors: Vec<Anchor>) {
        for anchor in anchors {
            if let Anchor::Process(process) = anchor {
                self.scenario.process_pool.end(process).await;
            }
        }
    }

    /// Ends, without a word to the service.
    pub(super) async fn end(&mut self) {
        self.left = self.scenario.acknowledged.borrow_mut().strike_all(&self.path());
        count(&self.scenario.statistics.ended);
        self.owner = None;
        let anchors = std::mem::take(&mut self.anchors);
        self.drop_anchors(anchors).await;
        self.ended = Some(Instant::now());
    }

    /// Closes the owner, whose anchors are still alive.
    pub(super) async fn close(&mut self) {
        let owner = self.owner();
        let held = self.scenario.acknowledged.borrow_mut().strike_all(&self.path());
        let (begun, mut doubted) = (Instant::now(), false);
        loop {
            match ask("Close", owner.close(HashMap::new())).await {
                Ok(()) => break,
                Err(CallError::Unanswered) => {
                    self.doubt();
                    doubted = true;
                }
                Err(refused) => {
                    let gone = ["DBus.Error.UnknownObject", "NoSuchOwner"];
                    let gone = gone.iter().any(|name| refused.is(name));
                    assert!(doubted && gone, "{}: {refused:?}", self.name);
                    break;
                }
            }
        }
        count(&self.scenario.statistics.ended);
        self.owner = None;
        for lock in held {
            self.scenario.acknowledged.borrow_mut().bury(&lock);
        }
        if doubted {
            // It may be on its way only.
            self.ended = Some(begun);
        } else {
            for disk in &self.own {
                if self.moved.is_some() {
                    // The owner from which its disks moved has them again until its end is noticed.
                    self.gets_free(disk).await;
                }
                self.is_free(disk);
            }
        }
        let anchors = std::mem::take(&mut self.anchors);
        self.drop_anchors(anchors).await;
    }

    /// Waits, for a bounded time, until no owner holds a disk.
    pub(super) async fn gets_free(&self, disk: &str) {
        let begun = Instant::now();
        while attempt(&self.scenario.host.at(disk), LockType::Ofd).is_err() {
            let late = begun.elapsed();
            assert!(late < ORPHANED, "{}: {disk} is locked after {late:?}", self.name);
            yield_now().await;
        }
    }

    /// Checks that the kernel grants a lock on a disk to a foreign process.
    pub(super) fn is_free(&self, disk: &str) {
        for kind in [LockType::Ofd, LockType::Posix] {
            let outcome = attempt(&self.scenario.host.at(disk), kind);
            assert_eq!(outcome, Ok(()), "{}: {disk} is locked ({kind:?})", self.name);
        }
    }
}

//! A client is paused, and moves: its disks pass to another owner of its own, and perhaps back.

use std::collections::HashMap;
use std::time::Instant;

use tokio::task::yield_now;
use vmlockd::client::OwnerProxy;

use super::client::{Client, DiskRequest, ORPHANED};
use super::retry::{CallError, ask, call_until_answered};
use super::statistics::count;
use crate::dbus_client::option;
use crate::fixture::within;

impl Client<'_> {
    /// Suspends and resumes the owner; the owner ends if another one has locked a disk meanwhile.
    pub(super) async fn pause(&mut self) {
        let (owner, disk_request) = (self.owner(), self.held());
        let struck = self.scenario.acknowledged.borrow_mut().strike_all(&self.path());
        let mut doubted = false;
        while let Err(trouble) = ask("Suspend", owner.suspend(HashMap::new())).await {
            assert!(matches!(trouble, CallError::Unanswered), "{trouble:?}");
            (doubted, ()) = (true, self.doubt());
        }
        assert_eq!(call_until_answered("Locks", || owner.locks()).await, []);
        assert_eq!(
            call_until_answered("Suspended", || owner.suspended()).await.len(),
            disk_request.len()
        );
        for lock in &struck {
            self.scenario.acknowledged.borrow_mut().bury(lock);
        }
        for (disk, _) in disk_request.iter().filter(|(disk, _)| self.own.contains(disk)) {
            if doubted {
                self.gets_free(disk).await;
            }
            self.is_free(disk);
        }
        count(&self.scenario.statistics.paused);
        let for_all = disk_request.iter().any(|(disk, _)| !self.own.contains(disk));
        loop {
            let wait = if self.rng.chance(50) { Self::brief() } else { HashMap::new() };
            match ask("Resume", owner.resume(wait)).await {
                Ok(_) => break,
                Err(CallError::Unanswered) => self.doubt(),
                Err(refused) => {
                    assert!(refused.is_of_others() && for_all, "{disk_request:?}: {refused:?}");
                    // Still, whatever was in doubt.
                    assert_eq!(call_until_answered("State", || owner.state()).await, "suspended");
                    return self.end().await;
                }
            }
        }
        self.has_all_of(&owner, &disk_request).await;
        assert!(self.acquire(&disk_request).await);
    }

    /// An owner runs and holds all of this.
    async fn has_all_of(&self, owner: &OwnerProxy<'_>, disk_request: &[DiskRequest]) {
        assert_eq!(call_until_answered("Locks", || owner.locks()).await.len(), disk_request.len());
        assert_eq!(call_until_answered("State", || owner.state()).await, "running");
        assert_eq!(call_until_answered("Suspended", || owner.suspended()).await, []);
    }

    /// Locks in transfer have no acknowledged holder, and are never free.
    fn set_out(&self, disk_request: &[DiskRequest]) -> Vec<zbus::OwnedObjectPath> {
        let mut acknowledged = self.scenario.acknowledged.borrow_mut();
        acknowledged.moving.extend(disk_request.iter().map(|(disk, _)| disk.clone()));
        acknowledged.strike_all(&self.path())
    }

    /// It has arrived: the owner that this client now has holds it.
    async fn arrive(&mut self, disk_request: &[DiskRequest], gone: &[zbus::OwnedObjectPath]) {
        let owner = self.owner();
        self.has_all_of(&owner, disk_request).await;
        assert!(self.acquire(disk_request).await);
        let mut acknowledged = self.scenario.acknowledged.borrow_mut();
        for lock in gone {
            acknowledged.bury(lock);
        }
        for (disk, _) in disk_request {
            acknowledged.moving.remove(disk);
        }
    }

    /// Hands all that it holds over to another owner, which it then has instead; or that one ends,
    /// and the first one has it again.
    pub(super) async fn hand_over(&mut self) {
        let (source, disk_request) = (self.owner(), self.held());
        let by_process = self.rng.chance(50);
        std::mem::swap(&mut self.uuid, &mut self.other_uuid);
        let begun = Instant::now();
        let (path, anchor) = loop {
            match self.try_open(HashMap::new(), by_process).await {
                Ok(opened) => break opened,
                Err(CallError::Unanswered) => self.doubt(),
                Err(trouble) => {
                    let late = begun.elapsed();
                    assert!(trouble.is("OwnerExists") && late < ORPHANED, "{trouble:?}");
                }
            }
        };
        // Where it moved before from one of this UUID, that one is gone.
        self.moved = None;
        let target = self.proxy(path).await;
        let token = self.token(&source).await;
        let gone = self.set_out(&disk_request);
        let mut doubted = false;
        loop {
            match ask("Adopt", target.adopt(&token, HashMap::new())).await {
                Ok(locks) => {
                    assert_eq!(locks.len(), disk_request.len());
                    break;
                }
                Err(CallError::Unanswered) => (doubted, ()) = (true, self.doubt()),
                Err(refused) => {
                    assert!(doubted && refused.is("NoSuchOffer"), "{refused:?}");
                    break;
                }
            }
        }
        assert_eq!(call_until_answered("Locks", || source.locks()).await, []);
        assert_eq!(call_until_answered("State", || source.state()).await, "suspended");
        count(&self.scenario.statistics.moved);
        let left = std::mem::replace(&mut self.anchors, vec![anchor]);
        self.set_owner(target);
        self.arrive(&disk_request, &gone).await;
        if self.rng.chance(50) {
            // The first one ends, with nothing.
            self.drop_anchors(left).await;
            self.moved = Some(Instant::now());
            return;
        }
        let gone = self.set_out(&disk_request);
        let ended = std::mem::replace(&mut self.anchors, left);
        self.set_owner(source.clone());
        std::mem::swap(&mut self.uuid, &mut self.other_uuid);
        self.drop_anchors(ended).await;
        let back = async {
            while call_until_answered("Locks", || source.locks()).await.len() != disk_request.len()
            {
                yield_now().await;
            }
        };
        within("all comes back", back).await;
        self.arrive(&disk_request, &gone).await;
    }

    /// Returns the token for all locks of an owner; an unacknowledged token is useless.
    async fn token(&self, source: &OwnerProxy<'_>) -> String {
        let mut doubted = false;
        loop {
            match ask("Offer", source.offer(HashMap::new())).await {
                Ok(token) => return token,
                Err(CallError::Unanswered) => (doubted, ()) = (true, self.doubt()),
                Err(refused) => {
                    assert!(doubted && refused.is("DBus.Error.InvalidArgs"), "{refused:?}");
                    let _ = ask("Cancel", source.cancel(HashMap::new())).await;
                }
            }
        }
    }

    /// To wait for a little while.
    pub(super) fn brief() -> vmlockd::client::Options<'static> {
        option("timeout-usec", 20_000_u64)
    }
}

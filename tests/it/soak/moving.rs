//! A client is paused, and moves: its disks pass to another owner of its own, and perhaps back.

use std::collections::HashMap;
use std::time::Instant;

use tokio::task::yield_now;
use vmlockd::client::OwnerProxy;

use super::answer::{Trouble, ask, insist};
use super::client::{Client, ORPHANED, Wish};
use super::tally::count;
use crate::house::within;
use crate::machine::option;

impl Client<'_> {
    /// Gives up all that it holds, and has it again; or ends, if somebody else has it meanwhile.
    pub(super) async fn pause(&mut self) {
        let (owner, wish) = (self.owner(), self.held());
        let struck = self.scene.ledger.borrow_mut().strike_all(&self.path());
        let mut doubted = false;
        while let Err(trouble) = ask("Suspend", owner.suspend(HashMap::new())).await {
            assert!(matches!(trouble, Trouble::Unanswered), "{trouble:?}");
            (doubted, ()) = (true, self.doubt());
        }
        assert_eq!(insist("Locks", || owner.locks()).await, []);
        assert_eq!(insist("Suspended", || owner.suspended()).await.len(), wish.len());
        for lock in &struck {
            self.scene.ledger.borrow_mut().bury(lock);
        }
        for (disk, _) in wish.iter().filter(|(disk, _)| self.own.contains(disk)) {
            if doubted {
                self.gets_free(disk).await;
            }
            self.is_free(disk);
        }
        count(&self.scene.tally.paused);
        let for_all = wish.iter().any(|(disk, _)| !self.own.contains(disk));
        loop {
            let wait = if self.dice.chance(50) { Self::brief() } else { HashMap::new() };
            match ask("Resume", owner.resume(wait)).await {
                Ok(_) => break,
                Err(Trouble::Unanswered) => self.doubt(),
                Err(refused) => {
                    assert!(refused.is_of_others() && for_all, "{wish:?}: {refused:?}");
                    // Still, whatever was in doubt.
                    assert_eq!(insist("State", || owner.state()).await, "suspended");
                    return self.end().await;
                }
            }
        }
        self.has_all_of(&owner, &wish).await;
        assert!(self.acquire(&wish).await);
    }

    /// An owner runs and holds all of this.
    async fn has_all_of(&self, owner: &OwnerProxy<'_>, wish: &[Wish]) {
        assert_eq!(insist("Locks", || owner.locks()).await.len(), wish.len());
        assert_eq!(insist("State", || owner.state()).await, "running");
        assert_eq!(insist("Suspended", || owner.suspended()).await, []);
    }

    /// What is on its way is nobody's by the ledger, and never free.
    fn set_out(&self, wish: &[Wish]) -> Vec<zbus::OwnedObjectPath> {
        let mut ledger = self.scene.ledger.borrow_mut();
        ledger.moving.extend(wish.iter().map(|(disk, _)| disk.clone()));
        ledger.strike_all(&self.path())
    }

    /// It has arrived: the owner that this client now has holds it.
    async fn arrive(&mut self, wish: &[Wish], gone: &[zbus::OwnedObjectPath]) {
        let owner = self.owner();
        self.has_all_of(&owner, wish).await;
        assert!(self.acquire(wish).await);
        let mut ledger = self.scene.ledger.borrow_mut();
        for lock in gone {
            ledger.bury(lock);
        }
        for (disk, _) in wish {
            ledger.moving.remove(disk);
        }
    }

    /// Hands all that it holds over to another owner, which it then has instead; or that one ends,
    /// and the first one has it again.
    pub(super) async fn hand_over(&mut self) {
        let (source, wish) = (self.owner(), self.held());
        let by_process = self.dice.chance(50);
        std::mem::swap(&mut self.uuid, &mut self.other_uuid);
        let begun = Instant::now();
        let (path, anchor) = loop {
            match self.try_open(HashMap::new(), by_process).await {
                Ok(opened) => break opened,
                Err(Trouble::Unanswered) => self.doubt(),
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
        let gone = self.set_out(&wish);
        let mut doubted = false;
        loop {
            match ask("Adopt", target.adopt(&token, HashMap::new())).await {
                Ok(locks) => {
                    assert_eq!(locks.len(), wish.len());
                    break;
                }
                Err(Trouble::Unanswered) => (doubted, ()) = (true, self.doubt()),
                Err(refused) => {
                    assert!(doubted && refused.is("NoSuchOffer"), "{refused:?}");
                    break;
                }
            }
        }
        assert_eq!(insist("Locks", || source.locks()).await, []);
        assert_eq!(insist("State", || source.state()).await, "suspended");
        count(&self.scene.tally.moved);
        let left = std::mem::replace(&mut self.anchors, vec![anchor]);
        self.set_owner(target);
        self.arrive(&wish, &gone).await;
        if self.dice.chance(50) {
            // The first one ends, with nothing.
            self.drop_anchors(left).await;
            self.moved = Some(Instant::now());
            return;
        }
        let gone = self.set_out(&wish);
        let ended = std::mem::replace(&mut self.anchors, left);
        self.set_owner(source.clone());
        std::mem::swap(&mut self.uuid, &mut self.other_uuid);
        self.drop_anchors(ended).await;
        let back = async {
            while insist("Locks", || source.locks()).await.len() != wish.len() {
                yield_now().await;
            }
        };
        within("all comes back", back).await;
        self.arrive(&wish, &gone).await;
    }

    /// The token for all that an owner holds; one that nobody was told is of no use.
    async fn token(&self, source: &OwnerProxy<'_>) -> String {
        let mut doubted = false;
        loop {
            match ask("Offer", source.offer(HashMap::new())).await {
                Ok(token) => return token,
                Err(Trouble::Unanswered) => (doubted, ()) = (true, self.doubt()),
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

//! The invariants of the table, checked after each of many random steps.

use proptest::prelude::*;

use super::steps::{World, steps};
use super::*;
use crate::lock::table::queue::Status;

/// Checks the invariants.
fn check(table: &Table) {
    let locks: Vec<&Lock> = table.locks.values().map(AsRef::as_ref).collect();
    for (n, a) in locks.iter().enumerate() {
        let owner = table.owner(a.owner).expect("a lock's owner is there");
        assert!(owner.locks.contains(&a.id));
        for b in &locks[n + 1..] {
            // One owner may have locks in any mode on resources that lie on each other.
            let overlap = a.want.overlaps(&b.want) && a.owner != b.owner;
            if overlap || a.want.is_same(&b.want) {
                assert!(!a.want.mode.conflicts(b.want.mode), "{a:?} and {b:?}");
            }
        }
    }
    for reserved in table.reclaims.iter().map(|reserved| &reserved.lock) {
        assert!(
            table.living(reserved.owner).is_ok(),
            "reserved for an owner that has ended: {reserved:?}"
        );
        for lock in locks.iter().filter(|lock| lock.owner != reserved.owner) {
            let conflict = lock.want.mode.conflicts(reserved.want.mode);
            assert!(!(conflict && lock.want.overlaps(&reserved.want)), "{lock:?} and {reserved:?}");
        }
    }
    let reserved = table.reclaims.iter().count();
    assert_eq!(table.reclaims.census(), [reserved; 4]);
    assert_eq!(table.owners.values().map(|owner| owner.locks.len()).sum::<usize>(), locks.len());
    assert_eq!(table.index.census(), (locks.len(), true));
    assert_eq!(table.by_name.len(), locks.len());
    for owner in table.owners.values() {
        assert!(owner.received_from.keys().all(|lock| owner.locks.contains(lock)), "{owner:?}");
        let idle = owner.locks.iter().all(|lock| table.lock(*lock).is_none());
        assert!(owner.ended || !owner.is_suspended() || idle, "suspended, and holds: {owner:?}");
        assert!(!owner.is_suspended() || owner.offer.is_none(), "suspended, and offers: {owner:?}");
        assert!(!owner.ended || table.waiters().all(|waiter| waiter.owner != owner.id));
    }
}

proptest! {
    /// No two holders conflict; no waiter is overtaken; a refusal or rollback leaves nothing
    /// ([`World::take`] asserts these two); and no waiter stays blocked that nothing blocks.
    #[test]
    fn no_conflicting_holders_and_no_lost_waiter(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            check(&world.table);
            let woken = world.table.wake_waiters().woken;
            let table = &world.table;
            for ticket in woken {
                prop_assert_eq!(&table.waiter(ticket).unwrap().status, &Status::Woken);
            }
            for waiter in table.waiters().filter(|waiter| waiter.status == Status::Waiting) {
                prop_assert!(!naive::may_go_on(table, waiter), "{:?} is not called", waiter);
            }
            world.check_waiters_hold_nothing();
        }
    }
}

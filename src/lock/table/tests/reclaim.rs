//! Reservations of released locks, by example.

use super::*;
use crate::lock::model::refusal::Refusal;
use crate::lock::table::Reclaimable;
use crate::lock::table::queue::Purpose;

const GRACE_END: u64 = 10;

/// Returns a table in which owner 0 has released disk 0 and may reclaim it.
fn released(mode: Mode) -> Table {
    let mut table = table(3);
    let lock = hold(&mut table, 0, &[disk(0, mode)]).unwrap()[0];
    table.begin_release(lock).unwrap();
    let (events, reserved) = table.finish_release_reserved(&[lock], GRACE_END, 16);
    assert!(matches!(events.as_slice(), [Event::LockReleased(_, Reason::Released)]));
    assert_eq!((reserved, table.reclaimable_by(id(0))), (vec![lock], vec![lock]));
    assert_eq!((table.size(), table.next_reclaim_end()), (0, Some(GRACE_END)));
    table
}

fn refusal(table: &mut Table, owner: u32, want: Want) -> Refusal {
    match hold(table, owner, &[want]) {
        Err(Error::Held(refusal)) => *refusal,
        other => panic!("not refused, but {other:?}"),
    }
}

#[test]
fn a_reserved_resource_is_refused_to_others_and_the_refusal_says_so() {
    let mut table = released(Mode::Exclusive);
    for mode in [Mode::Exclusive, Mode::Shared] {
        let refusal = refusal(&mut table, 1, disk(0, mode));
        let holder = &refusal.holders[0];
        assert_eq!((holder.owner, holder.reserved_until), (id(0), Some(GRACE_END)));
        assert_eq!(refusal.to_string(), format!("disk /0 is reserved for VM \"vm0\" ({})", id(0)));
    }
    // A lock in mode none conflicts with nothing.
    hold(&mut table, 2, &[disk(0, Mode::None)]).unwrap();
    assert_eq!(table.end_reclaims(GRACE_END - 1), []);
    refusal(&mut table, 1, disk(0, Mode::Shared));
    let over = table.end_reclaims(GRACE_END);
    assert!(matches!(over.as_slice(), [Reclaimable { until: GRACE_END, .. }]));
    hold(&mut table, 1, &[disk(0, Mode::Exclusive)]).unwrap();
}

#[test]
fn a_reserved_partition_keeps_others_from_the_disk_and_not_from_its_sibling() {
    let mut table = table(2);
    let lock = hold(&mut table, 0, &[disk(1, Mode::Exclusive)]).unwrap()[0];
    table.begin_release(lock).unwrap();
    table.finish_release_reserved(&[lock], GRACE_END, 16);
    assert_eq!(refusal(&mut table, 1, disk(3, Mode::Shared)).holders[0].relation, Relation::Above);
    hold(&mut table, 1, &[disk(2, Mode::Exclusive)]).unwrap();
}

#[test]
fn the_former_owner_reclaims_ahead_of_waiters() {
    for again in [Again::Same, Again::Count] {
        let mut table = released(Mode::Exclusive);
        let waiter = table.enqueue(id(1), &[disk(0, Mode::Shared)], Purpose::Acquire, 0).unwrap();
        assert_eq!(table.wake_waiters(), Wakeups::default());
        let why = table.refusal_of(table.waiter(waiter).unwrap()).unwrap();
        assert!(why.to_string().contains("is reserved for VM \"vm0\""), "{why}");
        let reserved = table.reserve(id(0), &[disk(0, Mode::Exclusive)], 0, again).unwrap();
        table.commit(id(0), &reserved.locks).unwrap();
        assert_eq!(table.reclaim(id(0), &reserved.locks), [1]);
        assert_eq!((table.wake_waiters(), table.next_reclaim_end()), (Wakeups::default(), None));
        table.begin_release(reserved.locks[0]).unwrap();
        table.finish_release(&reserved.locks, Reason::Released);
        assert_eq!(table.wake_waiters().woken, [waiter]);
    }
}

#[test]
fn a_failed_attempt_to_reclaim_leaves_the_reservation() {
    let mut table = released(Mode::Exclusive);
    let reserved = table.reserve(id(0), &[disk(0, Mode::Exclusive)], 0, Again::Count).unwrap();
    table.cancel(&reserved.locks);
    refusal(&mut table, 1, disk(0, Mode::Exclusive));
}

#[test]
fn the_end_of_a_reservation_and_of_its_owner_wake_the_waiters() {
    let end = |table: &mut Table| drop(table.end_reclaims(GRACE_END));
    let close = |table: &mut Table| drop(table.end_owner(id(0), true, 0).unwrap());
    for done in [&end as &dyn Fn(&mut Table), &close] {
        let mut table = released(Mode::Exclusive);
        let waiter =
            table.enqueue(id(1), &[disk(0, Mode::Exclusive)], Purpose::Acquire, 0).unwrap();
        assert_eq!(table.wake_waiters(), Wakeups::default());
        done(&mut table);
        assert_eq!(table.wake_waiters().woken, [waiter]);
    }
}

#[test]
fn each_of_two_shared_locks_is_reclaimed() {
    let mut table = table(2);
    let want = [disk(0, Mode::Shared)];
    let mut locks = Vec::new();
    for _ in 0..2 {
        locks.extend(table.reserve(id(0), &want, 0, Again::Count).unwrap().locks);
    }
    table.commit(id(0), &locks).unwrap();
    for lock in &locks {
        table.begin_release(*lock).unwrap();
        table.finish_release_reserved(&[*lock], GRACE_END, 16);
    }
    table.enqueue(id(1), &[disk(0, Mode::Exclusive)], Purpose::Acquire, 0).unwrap();
    for left in [1, 0] {
        let fresh = table.reserve(id(0), &want, 0, Again::Count).unwrap().locks;
        table.commit(id(0), &fresh).unwrap();
        assert_eq!(table.reclaim(id(0), &fresh).len(), 1);
        assert_eq!(table.reclaimable_by(id(0)).len(), left);
    }
    // A third lock would overtake the waiter.
    assert!(table.reserve(id(0), &want, 0, Again::Count).is_err());
}

#[test]
fn reservations_are_bounded_and_an_owner_that_has_ended_has_none() {
    let mut table = table(2);
    let locks = hold(&mut table, 0, &[disk(0, Mode::Shared), disk(1, Mode::Shared)]).unwrap();
    let ending = hold(&mut table, 1, &[disk(0, Mode::Shared)]).unwrap();
    for lock in &locks {
        table.begin_release(*lock).unwrap();
    }
    let (events, reserved) = table.finish_release_reserved(&locks, GRACE_END, 1);
    assert_eq!((events.len(), reserved), (2, locks[..1].to_vec()));
    table.begin_release(ending[0]).unwrap();
    table.end_owner(id(1), true, 0).unwrap();
    let (events, reserved) = table.finish_release_reserved(&ending, GRACE_END, 16);
    assert!(matches!(events.as_slice(), [Event::LockReleased(..), Event::OwnerClosed(_)]));
    assert_eq!(reserved, Vec::<u64>::new());
}

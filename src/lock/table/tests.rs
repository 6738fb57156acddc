//! The decisions of the table, by example; and its invariants, after each of many random steps.

use std::path::PathBuf;

use uuid::Uuid;

use super::*;
use crate::lock::model::extent::Span;
use crate::lock::model::owner::Front;
use crate::lock::model::refusal::Relation;

mod naive;
mod promises;
mod reclaim;
mod steps;

pub(super) fn id(n: u32) -> OwnerId {
    OwnerId::new(n % 2, Uuid::from_u128(u128::from(n) + 1))
}

pub(super) fn table(owners: u32) -> Table {
    let mut table = Table::default();
    for n in 0..owners {
        let mut owner = Owner::new(id(n), format!("vm{n}"), Front::Dbus, 0);
        owner.anchors.insert(u64::from(n), Anchor::Manual);
        table.open_owner(owner).unwrap();
    }
    table
}

pub(super) fn want(name: &str, inode: u64, mode: Mode) -> Want {
    Want {
        resource: name.to_owned(),
        canonical: None,
        path: None,
        identity: Identity::Inode { dev: 1, ino: inode },
        below: Vec::new(),
        copies: Vec::new(),
        lockspace: LockspaceKind::Direct,
        lock_files: vec![PathBuf::from(name)],
        fleeting: false,
        mode,
        write_shown: true,
    }
}

/// The number of disks that [`disk`] can return.
pub(super) const DISKS: u64 = 7;

/// Returns one of a few disks that lie on each other: 1 and 2 are parts of 3, which is stored in 4;
/// 5 and 6 are overlapping ranges of 4.
pub(super) fn disk(n: u64, mode: Mode) -> Want {
    let inode = |ino| Identity::Inode { dev: 1, ino };
    let part = |ino| Extent::partial(inode(ino));
    let range = |start, length| Extent::exact(inode(4), Span::new(start, length));
    let below = match n {
        1 | 2 => vec![part(3), Extent { span: Span::new(0, 10), ..part(4) }],
        3 => vec![range(0, 10)],
        5 => vec![range(5, 10)],
        6 => vec![range(10, 10)],
        _ => Vec::new(),
    };
    Want { below, ..want(&format!("/{n}"), n, mode) }
}

fn hold(table: &mut Table, owner: u32, wants: &[Want]) -> Result<Vec<u64>, Error> {
    let reservation = table.reserve(id(owner), wants, 7, Again::Same)?;
    let fresh: Vec<u64> = reservation.fresh.iter().map(|(lock, _)| *lock).collect();
    table.commit(id(owner), &fresh)?;
    Ok(reservation.locks)
}

#[test]
fn an_alias_is_refused_and_its_holder_named() {
    let mut table = table(2);
    hold(&mut table, 0, &[want("/a", 1, Mode::Exclusive)]).unwrap();
    let Err(Error::Held(refusal)) = hold(&mut table, 1, &[want("/link", 1, Mode::Shared)]) else {
        panic!("granted twice");
    };
    assert_eq!(refusal.resource, "/link");
    assert_eq!(
        (refusal.holders[0].name.as_str(), refusal.holders[0].resource.as_str()),
        ("vm0", "/a")
    );
}

#[test]
fn a_replaced_disk_is_another_disk_but_a_shared_lock_file_is_not() {
    let mut table = table(2);
    hold(&mut table, 0, &[want("/a", 1, Mode::Exclusive)]).unwrap();
    hold(&mut table, 1, &[want("/a", 2, Mode::Exclusive)]).unwrap();
    let hashed = |inode| Want {
        lockspace: LockspaceKind::File,
        lock_files: vec!["/locks/x".into()],
        ..want("/b", inode, Mode::Exclusive)
    };
    hold(&mut table, 0, &[hashed(3)]).unwrap();
    assert!(matches!(hold(&mut table, 1, &[hashed(4)]), Err(Error::Held(_))));
}

#[test]
fn layers_of_a_locked_disk_are_refused() {
    let (exclusive, shared) = (Mode::Exclusive, Mode::Shared);
    for (held, requested, relation) in [
        (3, 1, Relation::Beneath),
        (4, 1, Relation::Beneath),
        (1, 3, Relation::Above),
        (2, 4, Relation::Above),
        (3, 3, Relation::Same),
        (3, 5, Relation::Overlapping),
        (6, 5, Relation::Overlapping),
        (5, 1, Relation::Overlapping),
        (6, 4, Relation::Above),
    ] {
        let mut table = table(2);
        let first = hold(&mut table, 0, &[disk(held, exclusive)]).unwrap();
        for mode in [exclusive, shared] {
            let Err(Error::Held(refusal)) = hold(&mut table, 1, &[disk(requested, mode)]) else {
                panic!("{requested} is granted while {held} is held");
            };
            let holder = &refusal.holders[0];
            assert_eq!((holder.lock, holder.relation), (first[0], relation));
        }
        let around = disk(requested, exclusive);
        let found = table.locks_on(around.identity, &around.below);
        assert_eq!(found.iter().map(|lock| lock.id).collect::<Vec<_>>(), first);
        table.set_mode(first[0], shared).unwrap();
        hold(&mut table, 1, &[disk(requested, shared)]).unwrap();
        assert!(matches!(table.begin_upgrade(first[0]), Err(Error::Held(_))));
    }
    let mut table = table(2);
    hold(&mut table, 0, &[disk(1, exclusive)]).unwrap();
    hold(&mut table, 1, &[disk(2, exclusive), disk(0, exclusive), disk(6, exclusive)]).unwrap();
}

#[test]
fn one_owner_may_have_a_disk_and_its_parts_in_any_mode() {
    for again in [Again::Same, Again::Count] {
        let mut table = table(2);
        let both = [disk(3, Mode::Shared), disk(1, Mode::Exclusive), disk(4, Mode::Shared)];
        let reserved = table.reserve(id(0), &both, 0, again).unwrap();
        assert_eq!(reserved.locks, [1, 2, 3]);
        table.commit(id(0), &[1, 2, 3]).unwrap();
        assert_eq!(hold(&mut table, 0, &[disk(2, Mode::Exclusive)]).unwrap(), [4]);
        table.begin_upgrade(1).unwrap();
        assert!(hold(&mut table, 1, &[disk(4, Mode::Shared)]).is_err());
    }
}

#[test]
fn a_repeated_request_returns_the_same_lock_or_other_mode() {
    let mut table = table(1);
    let locks = hold(&mut table, 0, &[want("/a", 1, Mode::Shared), want("/b", 1, Mode::Shared)]);
    let locks = locks.unwrap();
    assert_eq!(locks[0], locks[1]);
    assert_eq!(hold(&mut table, 0, &[want("/c", 1, Mode::Shared)]).unwrap(), locks[..1]);
    let other = hold(&mut table, 0, &[want("/a", 1, Mode::Exclusive)]);
    assert!(matches!(other, Err(Error::OtherMode { held: Mode::Shared, .. })));
    let both = [want("/x", 9, Mode::Shared), want("/y", 9, Mode::Exclusive)];
    assert!(matches!(hold(&mut table, 0, &both), Err(Error::TwoModes(_))));
    assert_eq!(table.size(), 1);
}

#[test]
fn counted_requests_add_shared_locks_only() {
    let mut table = table(2);
    let mut count = |owner, wants: &[Want]| {
        let reservation = table.reserve(id(owner), wants, 7, Again::Count)?;
        table.commit(id(owner), &reservation.locks)?;
        Ok(reservation.locks)
    };
    let first = count(0, &[want("/a", 1, Mode::Shared)]).unwrap();
    let second = count(0, &[want("/a", 1, Mode::Shared)]).unwrap();
    assert_ne!(first, second);
    let own = count(0, &[want("/a", 1, Mode::Exclusive)]);
    assert!(matches!(own, Err(Error::Held(refusal)) if refusal.holders.len() == 2));
    count(0, &[want("/b", 2, Mode::Exclusive)]).unwrap();
    assert!(matches!(count(0, &[want("/b", 2, Mode::Exclusive)]), Err(Error::Held(_))));
    // Neither may be upgraded over the other.
    assert!(matches!(table.begin_upgrade(first[0]), Err(Error::Held(_))));
    let newest = table.named(id(0), LockspaceKind::Direct, "/a").unwrap().id;
    assert_eq!(newest, second[0]);
    table.begin_release(newest).unwrap();
    assert_eq!(table.named(id(0), LockspaceKind::Direct, "/a").unwrap().id, first[0]);
    table.finish_release(&second, Reason::Released);
    table.begin_upgrade(first[0]).unwrap();
}

#[test]
fn a_refused_request_leaves_nothing() {
    let mut table = table(2);
    hold(&mut table, 0, &[want("/b", 2, Mode::Exclusive)]).unwrap();
    let wants = [want("/a", 1, Mode::Exclusive), want("/b", 2, Mode::Exclusive)];
    assert!(hold(&mut table, 1, &wants).is_err());
    assert_eq!(table.size(), 1);
    assert!(table.owner(id(1)).unwrap().locks.is_empty());
}

#[test]
fn an_owner_that_ends_during_a_grant_gets_no_lock() {
    let mut table = table(1);
    hold(&mut table, 0, &[want("/a", 1, Mode::Exclusive)]).unwrap();
    let reservation =
        table.reserve(id(0), &[want("/b", 2, Mode::Exclusive)], 0, Again::Same).unwrap();
    let Ended { held, events, .. } = table.end_owner(id(0), true, 0).unwrap();
    assert_eq!((held.as_slice(), events.len()), ([1].as_slice(), 0));
    assert!(matches!(table.commit(id(0), &[2]), Err(Error::NoSuchOwner(_))));
    assert_eq!(table.finish_release(&held, Reason::OwnerGone).len(), 1);
    let fresh: Vec<u64> = reservation.fresh.iter().map(|(lock, _)| *lock).collect();
    assert!(matches!(table.cancel(&fresh).as_slice(), [Event::OwnerClosed(_)]));
    assert!(table.owner(id(0)).is_none());
}

#[test]
fn an_upgrade_is_exclusive_and_does_not_wait() {
    let mut table = table(3);
    let lock = hold(&mut table, 0, &[want("/a", 1, Mode::Shared)]).unwrap()[0];
    let other = hold(&mut table, 1, &[want("/a", 1, Mode::Shared)]).unwrap();
    assert!(matches!(table.begin_upgrade(lock), Err(Error::Held(_))));
    table.begin_release(other[0]).unwrap();
    assert!(
        matches!(table.begin_upgrade(lock), Err(Error::Held(_))),
        "still conflicts during its release"
    );
    table.finish_release(&other, Reason::Released);
    table.begin_upgrade(lock).unwrap();
    assert!(hold(&mut table, 2, &[want("/a", 1, Mode::Shared)]).is_err());
    table.set_mode(lock, Mode::Shared).unwrap();
    hold(&mut table, 2, &[want("/a", 1, Mode::Shared)]).unwrap();
}

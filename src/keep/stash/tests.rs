//! Tests of both policies of the stash.

use super::*;
use crate::lock::OwnerId;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use uuid::Uuid;

fn key(number: u64) -> StashKey {
    let owner = OwnerId::new(0, Uuid::from_u128(1));
    StashKey { owner, part: KeyPart::Byte(number, 0) }
}

fn stash() -> Stash {
    let (stash, found) = Stash::read(&mut Inherited::default(), Store::Unavailable).unwrap();
    assert!(found.is_empty());
    assert!(stash.begin([], []).unwrap().is_empty());
    stash
}

/// Returns the keys that the next service would find, copies included.
fn queued(stash: &Stash) -> Vec<StashKey> {
    let inner = lock(&stash.open);
    let mut all = Vec::new();
    for pair in inner.by_number.values() {
        let [into, out] = pair.ends().map(|end| end.try_clone_to_owned().unwrap());
        let (_, found) = SocketPair::read(pair.number, pair.name.clone(), into, out).unwrap();
        all.extend(found.into_iter().map(|(key, _)| key));
    }
    all
}

fn set(keys: &[StashKey]) -> BTreeSet<StashKey> {
    keys.iter().copied().collect()
}

#[test]
fn a_full_pair_is_packed_into_the_spare_one() {
    let stash = stash();
    let file: SharedFd = Arc::new(tempfile::tempfile().unwrap());
    let keys: Vec<StashKey> = (0..3_000).map(key).collect();
    for key in &keys {
        stash.put(&[(*key, Arc::clone(&file))]).unwrap();
    }
    assert_eq!(set(&queued(&stash)), set(&keys));
    // Some messages of one descriptor each; the others are packed.
    let pairs = lock(&stash.open).by_number.len();
    assert!(pairs <= 4, "{pairs} pairs");
}

#[test]
fn stale_descriptors_are_closed_and_live_ones_stay() {
    let stash = stash();
    let files: Vec<File> = (0..600).map(|_| tempfile::tempfile().unwrap()).collect();
    let copy = |file: &File| Arc::new(file.try_clone().unwrap()) as SharedFd;
    let all: Vec<(StashKey, SharedFd)> =
        files.iter().enumerate().map(|(n, file)| (key(n as u64), copy(file))).collect();
    for part in all.chunks(7) {
        stash.put(part).unwrap();
    }
    let keys: Vec<StashKey> = all.iter().map(|(key, _)| *key).collect();
    drop(all);
    let (stale, live): (Vec<StashKey>, Vec<StashKey>) =
        keys.iter().partition(|key| matches!(key.part, KeyPart::Byte(n, _) if n % 3 == 0));
    assert!(stash.discard(&stale).needs_compaction);
    assert_eq!(set(&queued(&stash)), set(&keys), "nothing is removed before the compaction");
    stash.compact().unwrap();
    let now = queued(&stash);
    assert_eq!(set(&now), set(&live));
    assert_eq!(now.len(), live.len(), "without copies");
    assert!(!stash.discard(&[]).needs_compaction, "nothing is left to be compacted");
    assert!(stash.discard(&live).errors.is_empty());
    stash.compact().unwrap();
    assert_eq!(queued(&stash), []);
}

#[test]
fn a_small_stash_closes_descriptors_at_once() {
    let stash = stash();
    let (ours, theirs) = rustix::pipe::pipe().unwrap();
    stash.put(&[(key(1), Arc::new(tempfile::tempfile().unwrap()))]).unwrap();
    stash.put(&[(key(2), Arc::new(theirs))]).unwrap();
    assert!(!stash.discard(&[key(2)]).needs_compaction);
    // The pipe hangs up only once no copy of the other end is left.
    assert_eq!(rustix::io::read(&ours, &mut [0_u8]).unwrap(), 0);
    assert_eq!(queued(&stash), [key(1)]);
}

#[test]
fn a_crash_during_compaction_leaves_copies_and_loses_nothing() {
    let stash = stash();
    let file: SharedFd = Arc::new(tempfile::tempfile().unwrap());
    let keys: Vec<StashKey> = (0..100).map(key).collect();
    for key in &keys {
        stash.put(&[(*key, Arc::clone(&file))]).unwrap();
    }
    // As if the service had died after it sent the descriptors again, and before it dropped them.
    {
        let mut inner = lock(&stash.open);
        let part: Vec<_> = keys.iter().map(|key| (*key, Arc::clone(&file))).collect();
        let current = inner.current;
        assert!(inner.send(current, &part).unwrap());
    }
    assert_eq!(queued(&stash).len(), 200);
    let mut inherited = inherit(&stash);
    drop(stash);
    let (again, found) = Stash::read(&mut inherited, Store::Unavailable).unwrap();
    assert_eq!(found.open.len(), 200);
    let found: BTreeSet<StashKey> = found.open.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, set(&keys));
    let wanted = keys.iter().map(|key| (*key, Arc::clone(&file)));
    assert!(again.begin(wanted, []).unwrap().is_empty());
    again.compact().unwrap();
    assert_eq!(queued(&again).len(), 100);
    assert_eq!(set(&queued(&again)), set(&keys));
}

fn inherit(stash: &Stash) -> Inherited {
    let inner = lock(&stash.open);
    let pairs = inner.by_number.values().map(|pair| {
        let [into, out] = pair.ends().map(|end| Some(end.try_clone_to_owned().unwrap()));
        (pair.name.clone(), (into, out))
    });
    Inherited { pairs: pairs.collect(), ..Inherited::default() }
}

#[test]
fn a_stash_only_descriptor_is_fetched_by_key_and_its_pair_removed_with_the_last() {
    let stash = stash();
    let files: Vec<_> = (0..9).map(|_| tempfile::tempfile().unwrap()).collect();
    for (n, file) in files.iter().enumerate() {
        let fd = Arc::new(file.try_clone().unwrap());
        stash.put_stash_only(n as u64 % 2, key(n as u64), fd).unwrap();
    }
    let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
    let check = |living: &dyn Fn(usize) -> bool| {
        for (n, file) in files.iter().enumerate() {
            let fetched = stash.fetch(key(n as u64));
            assert_eq!(fetched.is_ok(), living(n), "{n}");
            if let Ok(fetched) = fetched {
                assert_eq!(inode(fetched.as_fd()), inode(file.as_fd()), "{n}");
            }
        }
    };
    let pairs = || lock(&stash.unopened);
    check(&|_| true);
    assert!(stash.discard(&[key(2), key(5)]).errors.is_empty());
    check(&|n| n != 2 && n != 5);
    assert_eq!(pairs().by_number.values().map(|pair| pair.queue.len()).sum::<usize>(), 7);
    assert!(stash.discard(&(0..9).map(key).collect::<Vec<_>>()).errors.is_empty());
    check(&|_| false);
    assert!(pairs().by_number.is_empty());
}

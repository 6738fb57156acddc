use super::*;
use crate::lock::OwnerId;
use std::collections::BTreeSet;
use std::fs::File;
use uuid::Uuid;

fn key(number: u64) -> Key {
    let owner = OwnerId::new(0, Uuid::from_u128(1));
    Key { owner, part: super::super::Part::Byte(number, 0) }
}

fn parking() -> Parking {
    let (parking, found) = Parking::read(&mut Inherited::default(), Store::Nowhere).unwrap();
    assert!(found.is_empty());
    assert!(parking.begin([]).unwrap().is_empty());
    parking
}

/// What the next service would find: which keys, and how often.
fn in_flight(parking: &Parking) -> Vec<Key> {
    let inner = parking.inner();
    let mut all = Vec::new();
    for pair in inner.pairs.values() {
        let [into, out] = pair.ends().map(|end| end.try_clone_to_owned().unwrap());
        let (_, found) = Pair::read(pair.number, pair.name.clone(), into, out).unwrap();
        all.extend(found.into_iter().map(|(key, _)| key));
    }
    all
}

fn set(keys: &[Key]) -> BTreeSet<Key> {
    keys.iter().copied().collect()
}

#[test]
fn a_full_pair_is_packed_into_the_spare_one() {
    let parking = parking();
    let file: Parked = Arc::new(tempfile::tempfile().unwrap());
    let keys: Vec<Key> = (0..3_000).map(key).collect();
    for key in &keys {
        parking.park(&[(*key, Arc::clone(&file))]).unwrap();
    }
    assert_eq!(set(&in_flight(&parking)), set(&keys));
    // Some messages of one descriptor each, the rest packed: nowhere near three thousand.
    let pairs = parking.inner().pairs.len();
    assert!(pairs <= 4, "{pairs} pairs");
}

#[test]
fn what_is_dead_is_closed_and_what_lives_stays() {
    let parking = parking();
    let files: Vec<File> = (0..600).map(|_| tempfile::tempfile().unwrap()).collect();
    let copy = |file: &File| Arc::new(file.try_clone().unwrap()) as Parked;
    let all: Vec<(Key, Parked)> =
        files.iter().enumerate().map(|(n, file)| (key(n as u64), copy(file))).collect();
    for part in all.chunks(7) {
        parking.park(part).unwrap();
    }
    let keys: Vec<Key> = all.iter().map(|(key, _)| *key).collect();
    drop(all);
    let (dead, live): (Vec<Key>, Vec<Key>) = keys
        .iter()
        .partition(|key| matches!(key.part, super::super::Part::Byte(n, _) if n % 3 == 0));
    assert!(parking.unpark(&dead));
    assert_eq!(set(&in_flight(&parking)), set(&keys), "nothing is done before it is due");
    parking.clean().unwrap();
    let now = in_flight(&parking);
    assert_eq!(set(&now), set(&live));
    assert_eq!(now.len(), live.len(), "and once only");
    assert!(!parking.unpark(&[]), "nothing is left to be done");
    parking.unpark(&live);
    parking.clean().unwrap();
    assert_eq!(in_flight(&parking), []);
}

#[test]
fn where_little_is_parked_it_is_closed_at_once() {
    let parking = parking();
    let (ours, theirs) = rustix::pipe::pipe().unwrap();
    parking.park(&[(key(1), Arc::new(tempfile::tempfile().unwrap()))]).unwrap();
    parking.park(&[(key(2), Arc::new(theirs))]).unwrap();
    assert!(!parking.unpark(&[key(2)]));
    // The end of the pipe is seen only once no copy of the other is left.
    assert_eq!(rustix::io::read(&ours, &mut [0_u8]).unwrap(), 0);
    assert_eq!(in_flight(&parking), [key(1)]);
}

#[test]
fn a_crash_while_a_pair_is_turned_leaves_copies_and_loses_nothing() {
    let parking = parking();
    let file: Parked = Arc::new(tempfile::tempfile().unwrap());
    let keys: Vec<Key> = (0..100).map(key).collect();
    for key in &keys {
        parking.park(&[(*key, Arc::clone(&file))]).unwrap();
    }
    // As if it had died after sending once more, and before dropping.
    {
        let mut inner = parking.inner();
        let part: Vec<_> = keys.iter().map(|key| (*key, Arc::clone(&file))).collect();
        let current = inner.current;
        assert!(inner.send(current, &part).unwrap());
    }
    assert_eq!(in_flight(&parking).len(), 200);
    let mut inherited = inherit(&parking);
    drop(parking);
    let (again, found) = Parking::read(&mut inherited, Store::Nowhere).unwrap();
    assert_eq!(found.len(), 200);
    let found: BTreeSet<Key> = found.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, set(&keys));
    let wanted = keys.iter().map(|key| (*key, Arc::clone(&file)));
    assert!(again.begin(wanted).unwrap().is_empty());
    again.clean().unwrap();
    assert_eq!(in_flight(&again).len(), 100);
    assert_eq!(set(&in_flight(&again)), set(&keys));
}

fn inherit(parking: &Parking) -> Inherited {
    let inner = parking.inner();
    let pairs = inner.pairs.values().map(|pair| {
        let [into, out] = pair.ends().map(|end| Some(end.try_clone_to_owned().unwrap()));
        (pair.name.clone(), (into, out))
    });
    Inherited { pairs: pairs.collect(), ..Inherited::default() }
}

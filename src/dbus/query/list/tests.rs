use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;
use zbus::wire::serialized::Context;
use zbus::wire::{LE, serialized_size};

use super::*;
use crate::dbus::reply::dictionary::Dictionary;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Stage;
use crate::lock::model::process_search::Processes;
use crate::lock::model::refusal::Relation;
use crate::lock::resolve::name_state::NameState;
use crate::lock::table::queue::{Purpose, Status, Waiter};
use crate::lock::{Anchor, Front, Lock, Mode, OwnerId, Proof};
use crate::service::facade::list::OwnerSummary;

fn want(length: usize) -> Want {
    let name = format!("/{}", "x".repeat(length));
    Want {
        canonical: Some(name.clone()),
        path: Some(PathBuf::from(&name)),
        lock_files: vec![PathBuf::from(&name)],
        resource: name,
        identity: Identity::Key { dev: u64::MAX, ino: u64::MAX, key: u64::MAX },
        below: Vec::new(),
        copies: Vec::new(),
        lockspace: LockspaceKind::Lease(u32::MAX),
        fleeting: false,
        mode: Mode::Exclusive,
        write_shown: true,
    }
}

fn size<R>(rows: Vec<R>, encode: fn(&R) -> Vec<Dictionary>) -> usize {
    *serialized_size(Context::new(LE, 0), &Rows { rows, encode }).unwrap()
}

/// Asserts that a bound is sufficient, and not so large that a reply would be truncated without need.
#[track_caller]
fn assert_close(bound: usize, size: usize) {
    assert!(bound >= size, "{bound} for {size} bytes");
    assert!(bound <= size + 120, "{bound} for {size} bytes");
}

#[test]
fn a_row_is_no_larger_than_its_bound() {
    let id = OwnerId { uid: u32::MAX, uuid: Uuid::max(), process: u32::MAX };
    for length in [10, 3900] {
        let why = if length == 10 { "" } else { "a \"b\" c" };
        let (name, pid) = ("n".repeat(128).into(), u32::MAX);
        let owner_summary = OwnerSummary { id, name, why: why.into(), pid };
        let lock = Lock {
            id: u64::MAX,
            owner: id,
            since: u64::MAX,
            stage: Stage::Held,
            proof: Proof::Unverified,
            want: want(length),
        };
        let lock = Arc::new(lock);
        let mut row = LockRow {
            lock,
            owner_summary: owner_summary.clone(),
            name_state: None,
            conflict: false,
        };
        let rows = vec![row.clone(); 100];
        assert_close(lock_size_bound(&row), size(rows, |row| vec![encode_lock(row)]) / 100);
        (row.name_state, row.conflict) = (Some(NameState::Replaced), true);
        let rows = vec![row.clone(); 100];
        assert_close(lock_size_bound(&row), size(rows, |row| vec![encode_lock(row)]) / 100);
        let row = SuspendedRow {
            number: u64::MAX,
            want: Arc::new(want(length)),
            owner_summary: owner_summary.clone(),
        };
        let real = size(vec![row.clone(); 100], |row| vec![encode_suspended(row)]) / 100;
        assert!(suspended_size_bound(&row) >= real);
        let waiter = Waiter {
            ticket: u64::MAX,
            owner: id,
            since: u64::MAX,
            wants: vec![want(length); 10],
            purpose: Purpose::Upgrade(u64::MAX),
            status: Status::Waiting,
        };
        let holder = Holder {
            lock: u64::MAX,
            owner: id,
            name: "n".repeat(128),
            why: "w".repeat(200),
            pid: u32::MAX,
            mode: Mode::Exclusive,
            since: u64::MAX,
            resource: String::new(),
            relation: Relation::Same,
            kept_by: Processes::default(),
            reserved_until: Some(u64::MAX),
        };
        let reserved = (0..10).map(|n| (n, holder.clone())).collect();
        for reserved in [Vec::new(), reserved] {
            let waiter = Arc::new(waiter.clone());
            let row = WaitingRow { waiter, owner_summary: owner_summary.clone(), reserved };
            let real = size(vec![row.clone(); 10], encode_waiting) / 100;
            assert_close(waiting_size_bound(&row) / 10, real);
        }
    }
    let row = OwnerRow {
        id,
        name: "n".repeat(128),
        why: String::new(),
        pid: u32::MAX,
        front: Front::Virtlockd,
        state: "suspended",
        since: u64::MAX,
        anchors: vec![Anchor::Connection; 4],
        locks: usize::MAX,
    };
    let rows = vec![row.clone(); 100];
    assert_close(owner_size_bound(&row), size(rows, |row| vec![encode_owner(row)]) / 100);
    let row = OwnerRow { why: "w".repeat(200), ..row };
    let rows = vec![row.clone(); 100];
    assert_close(owner_size_bound(&row), size(rows, |row| vec![encode_owner(row)]) / 100);
}

#[test]
fn a_page_is_truncated_and_a_complete_list_is_not() {
    let mut rows = vec![REPLY_MAX / 2; 3];
    let size_bound = |row: &usize| *row;
    assert!(Page { paged: false, limit: 9 }.truncate(&mut rows, size_bound).is_err());
    Page { paged: true, limit: 9 }.truncate(&mut rows, size_bound).unwrap();
    assert_eq!(rows.len(), 2);
    Page { paged: false, limit: 9 }.truncate(&mut rows, size_bound).unwrap();
    assert_eq!(rows.len(), 2);
    // One row is always returned: an empty page means the end of the list.
    let mut rows = vec![REPLY_MAX + 1; 2];
    Page { paged: true, limit: 9 }.truncate(&mut rows, size_bound).unwrap();
    assert_eq!(rows.len(), 1);
    let mut none = Vec::<usize>::new();
    Page { paged: true, limit: 9 }.truncate(&mut none, size_bound).unwrap();
    assert!(none.is_empty());
}

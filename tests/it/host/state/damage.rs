//! Damaged records.
//!
//! The records are, for each of two machines, an owner, an anchor and two locks.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::STATE;
use super::scenario::{Scenario, ServiceHost};
use crate::fixture::StateImage;
use crate::fixture::state_image::HEAD;

/// How many records there are.
const RECORDS: usize = 8;

/// Returns how many objects are recovered for a damaged record. Descriptors suffice to restore an
/// anchor completely, and of a lock only that it is held. The locks restore the holdings of an
/// owner.
fn recovered(kind: &str) -> usize {
    match kind {
        "owner" => 2,
        "lock" => 1,
        _ => 0,
    }
}

fn flip(file: &Path, at: usize) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
}

fn write(file: &Path, at: usize, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(bytes, at as u64).unwrap();
}

fn assert_said(place: &ServiceHost, journal: &str) {
    assert!(journal.contains("the state file is damaged"), "{journal}");
    assert!(place.host.at(format!("{STATE}.damaged")).exists());
}

/// The damaged byte of a record, by its length.
type Spot = fn(usize) -> usize;

async fn a_damaged_record_frees_nothing(config: &str, spots: &[Spot]) {
    let Some(mut place) = ServiceHost::boot(config).await else { return };
    for number in 0..RECORDS {
        let mut scenario = Scenario::set_up(&mut place).await;
        let image = StateImage { bytes: scenario.state() };
        let entries = image.entries();
        assert_eq!(entries.len(), RECORDS);
        let (entry, kind) = (&entries[number], image.kind(&entries[number]));
        let spot = spots[number % spots.len()](entry.len());
        // As one thing about each, so that a failure tells which.
        let what = format!("byte {spot} of {} bytes of {kind} {number}", entry.len());
        let aside = scenario.service_host().host.at(format!("{STATE}.damaged"));
        let _ = fs::remove_file(&aside);
        scenario.outlives(&what, recovered(kind), |file| flip(file, entry.start + spot)).await;
        assert!(aside.exists(), "{what}");
    }
    assert_said(&place, &place.host.journal().await);
}

#[tokio::test]
async fn in_the_middle() {
    a_damaged_record_frees_nothing("", &[|length| length / 2]).await;
}

#[tokio::test]
async fn in_what_changes() {
    a_damaged_record_frees_nothing("", &[|_| 0, |_| 1, |_| 2, |_| 17, |length| length - 2]).await;
}

#[tokio::test]
async fn where_lock_files_are_hashed() {
    let config = "file_lockspace_dir = \"/srv/locks\"\n";
    a_damaged_record_frees_nothing(config, &[|length| length / 2]).await;
}

#[tokio::test]
async fn a_truncated_file_frees_nothing() {
    let Some(mut place) = ServiceHost::boot("").await else { return };
    for number in 0..RECORDS {
        let scenario = Scenario::set_up(&mut place).await;
        let image = StateImage { bytes: scenario.state() };
        let entries = image.entries();
        let cut = entries[number].start;
        let kept = entries[..number].iter().filter(|entry| image.kind(entry) == "lock").count();
        let what = format!("cut at {cut}, after {number} records");
        let shorten = |file: &Path| {
            fs::File::options().write(true).open(file).unwrap().set_len(cut as u64).unwrap();
        };
        scenario.outlives(&what, 4 - kept, shorten).await;
    }
    assert_said(&place, &place.host.journal().await);
}

#[tokio::test]
async fn a_file_that_is_gone_or_empty_frees_nothing() {
    let Some(mut place) = ServiceHost::boot("").await else { return };
    let remove = |file: &Path| fs::remove_file(file).unwrap();
    Scenario::set_up(&mut place).await.outlives("removed", 4, remove).await;
    let journal = place.host.journal().await;
    assert!(journal.contains("the state file is damaged"), "{journal}");
    let empty = |file: &Path| drop(fs::File::create(file).unwrap());
    Scenario::set_up(&mut place).await.outlives("emptied", 4, empty).await;
    let garbage = |file: &Path| fs::write(file, [0xff, 0, b'\n'].repeat(1000)).unwrap();
    Scenario::set_up(&mut place).await.outlives("garbage", 4, garbage).await;
    assert_said(&place, &place.host.journal().await);
}

/// All that follows the head can be read, and is known.
#[tokio::test]
async fn a_damaged_head_frees_nothing() {
    let Some(mut place) = ServiceHost::boot("").await else { return };
    let state = fs::read(place.host.at(STATE)).unwrap();
    let head =
        String::from_utf8(state.split(|byte| *byte == b'\n').next().unwrap().to_vec()).unwrap();
    let word = |n: usize| head.match_indices(' ').nth(n).unwrap().0 + 1;
    let (boot, salt, sum) = (word(1), word(2), word(3));
    Scenario::set_up(&mut place).await.outlives("magic", 0, |file| flip(file, 3)).await;
    Scenario::set_up(&mut place).await.outlives("version", 0, |file| write(file, 14, b"x")).await;
    Scenario::set_up(&mut place).await.outlives("boot", 0, |file| flip(file, boot)).await;
    let other = b"01234567-89ab-4cde-8f01-23456789abcd";
    Scenario::set_up(&mut place)
        .await
        .outlives("all of boot", 0, |file| write(file, boot, other))
        .await;
    Scenario::set_up(&mut place).await.outlives("salt", 0, |file| flip(file, salt)).await;
    Scenario::set_up(&mut place).await.outlives("checksum", 0, |file| flip(file, sum)).await;
    let statuses = |file: &Path| write(file, 128, &[0; 128]);
    Scenario::set_up(&mut place).await.outlives("statuses", 0, statuses).await;
    let all = |file: &Path| write(file, 0, &[0; HEAD]);
    Scenario::set_up(&mut place).await.outlives("all", 0, all).await;
    assert_said(&place, &place.host.journal().await);
    // The status is there twice: one of them suffices, and is no damage.
    for at in [128, 192] {
        let status = |file: &Path| write(file, at, &[0xff; 64]);
        Scenario::set_up(&mut place).await.outlives("a status", 0, status).await;
    }
}

//! Damaged records.
//!
//! The lines are a head, what was counted, and for each of two machines an owner, an anchor and
//! two locks.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::STATE;
use super::scenario::{Scenario, ServiceHost};

/// Returns the kind of a record.
fn kind(line: &[u8]) -> &'static str {
    let is = |kind: &&str| {
        let word = format!(" {{\"{kind}\":");
        line.windows(word.len()).any(|part| part == word.as_bytes())
    };
    ["counted", "owner", "anchor", "lock"].into_iter().find(is).unwrap()
}

/// Returns how many objects are recovered for a damaged line. Descriptors suffice to restore an
/// anchor completely, and of a lock only that it is held. The locks restore the holdings of an
/// owner.
fn recovered(line: &[u8]) -> usize {
    match kind(line) {
        "owner" => 2,
        "lock" => 1,
        _ => 0,
    }
}

/// The lines that tell of something, each with where it begins.
fn lines(state: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut at = 0;
    let mut lines = Vec::new();
    for line in state.split_inclusive(|byte| *byte == b'\n') {
        if line[0] == b'h' {
            lines.push((at, line.to_vec()));
        }
        at += line.len();
    }
    lines
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

/// The damaged byte of a line, by its length.
type Spot = fn(usize) -> usize;

async fn a_damaged_line_frees_nothing(config: &str, spots: &[Spot]) {
    let Some(mut place) = ServiceHost::boot(config).await else { return };
    for number in 0..9 {
        let mut scenario = Scenario::set_up(&mut place).await;
        let lines = lines(&scenario.state());
        assert_eq!(lines.len(), 9);
        let (at, line) = &lines[number];
        let spot = spots[number % spots.len()](line.len());
        // As one thing about each, so that a failure tells which.
        let what = format!("byte {spot} of {}", line.escape_ascii());
        let aside = scenario.service_host().host.at(format!("{STATE}.damaged"));
        let _ = fs::remove_file(&aside);
        scenario.outlives(&what, recovered(line), |file| flip(file, at + spot)).await;
        assert!(aside.exists(), "{what}");
    }
    assert_said(&place, &place.host.journal().await);
}

#[tokio::test]
async fn in_the_middle() {
    a_damaged_line_frees_nothing("", &[|length| length / 2]).await;
}

#[tokio::test]
async fn in_what_changes() {
    a_damaged_line_frees_nothing("", &[|_| 0, |_| 1, |_| 5, |length| length - 2]).await;
}

#[tokio::test]
async fn where_lock_files_are_hashed() {
    let config = "file_lockspace_dir = \"/srv/locks\"\n";
    a_damaged_line_frees_nothing(config, &[|length| length / 2]).await;
}

#[tokio::test]
async fn a_truncated_file_frees_nothing() {
    let Some(mut place) = ServiceHost::boot("").await else { return };
    for number in 0..9 {
        let scenario = Scenario::set_up(&mut place).await;
        let lines = lines(&scenario.state());
        let cut = lines[number].0;
        let kept = lines[..number].iter().filter(|(_, line)| kind(line) == "lock").count();
        let what = format!("cut at {cut}, after {number} lines");
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
    let head = fs::read_to_string(place.host.at(STATE)).unwrap();
    let head = head.lines().next().unwrap().to_owned();
    let boot = head.match_indices(' ').nth(1).unwrap().0 + 1;
    let length = head.rfind(' ').unwrap() + 1;
    Scenario::set_up(&mut place).await.outlives("magic", 0, |file| flip(file, 3)).await;
    Scenario::set_up(&mut place).await.outlives("version", 0, |file| write(file, 14, b"x")).await;
    Scenario::set_up(&mut place).await.outlives("boot", 0, |file| flip(file, boot)).await;
    let other = b"01234567-89ab-4cde-8f01-23456789abcd";
    Scenario::set_up(&mut place)
        .await
        .outlives("all of boot", 0, |file| write(file, boot, other))
        .await;
    Scenario::set_up(&mut place).await.outlives("more", 0, |file| write(file, length, b"1")).await;
    Scenario::set_up(&mut place)
        .await
        .outlives("less", 0, |file| write(file, length + 15, b"0"))
        .await;
    Scenario::set_up(&mut place)
        .await
        .outlives("no number", 0, |file| write(file, length, b"x"))
        .await;
    assert_said(&place, &place.host.journal().await);
}

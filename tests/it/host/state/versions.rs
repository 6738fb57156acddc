//! State that another version of the program has written.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use vmlockd::keep::state_file::{OLDEST, VERSION};

use super::STATE;
use super::scenario::{Scenario, ServiceHost};

/// Where the head has the version.
const PLACE: u64 = 14;
/// The version that this program writes.
#[allow(clippy::cast_possible_truncation, reason = "it is one digit")]
const OURS: u8 = b'0' + VERSION as u8;
/// The oldest version that it reads.
#[allow(clippy::cast_possible_truncation, reason = "it is one digit")]
const OLD: u8 = b'0' + OLDEST as u8;

fn set_version(file: &Path, digit: u8) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(&[digit], PLACE).unwrap();
}

/// The service refuses to begin and leaves all as it is, as often as systemd tries; with a state
/// that it knows it comes back.
async fn another_version_is_left_alone(digit: u8) {
    let Some(mut place) = ServiceHost::boot("").await else { return };
    let mut scenario = Scenario::set_up(&mut place).await;
    let place = scenario.service_host();
    place.stop(|file| set_version(file, digit));
    let state = place.host.at(STATE);
    let before = fs::read(&state).unwrap();
    place.tried_again().await;
    assert_eq!(fs::read(&state).unwrap(), before);
    let said = place.host.journal().await;
    let words =
        format!("vmlockd: cannot use state file {STATE}: it has version {}", char::from(digit));
    assert!(said.contains(&words), "{said}");
    let check = ["/usr/sbin/vmlockd", "--check-state", "/run/vmlockd"];
    let words = words.replace("vmlockd: ", "");
    let refused = place.host.run(&check).await.refused();
    assert!(refused.contains(&words), "{refused}");

    set_version(&state, OURS);
    place.host.run(&check).await.ok();
    place.came_back().await;
    scenario.comes_back_as_it_was().await;
}

#[tokio::test]
async fn a_newer_one() {
    another_version_is_left_alone(OURS + 1).await;
}

#[tokio::test]
async fn an_older_one() {
    another_version_is_left_alone(OLD - 1).await;
}

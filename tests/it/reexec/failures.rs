//! The installed program cannot take over: the old one continues, with all its locks.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use nix::sys::signal::Signal;
use vmlockd::keep::state_file::{OLDEST, VERSION};

use super::Scenario;
use crate::fixture::{TestMount, program};

/// Puts something in the program's place, and tries both ways.
async fn the_old_one_goes_on(install: impl FnOnce(&Path), words: &str) {
    let mut scenario = Scenario::set_up().await;
    let name = scenario.watch.owned().await;
    let installed = scenario.installed();
    fs::remove_file(&installed).unwrap();
    install(&installed);
    goes_on(&scenario, words).await;
    scenario.daemon.signal(Signal::SIGUSR1);
    scenario.says("cannot re-execute vmlockd").await;
    // It has not even left the bus.
    assert_eq!(scenario.watch.owned().await, name);
    assert!(scenario.daemon.lives());
    let _ = fs::remove_file(&installed);
    scenario.replace(true).await;
    scenario.compare().await;
    scenario.end().await;
}

async fn goes_on(scenario: &Scenario, words: &str) {
    let refused = scenario.ask().await.unwrap_err();
    assert_eq!(refused.name, "DBus.Error.Failed", "{}", refused.message);
    assert!(refused.message.contains(words), "not {words}, but {}", refused.message);
    scenario.compare().await;
    scenario.serves().await;
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn none_is_there() {
    the_old_one_goes_on(|_| (), "No such file or directory").await;
}

#[tokio::test]
async fn it_is_not_executable() {
    let copy = |path: &Path| {
        fs::copy(program("vmlockd"), path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    };
    the_old_one_goes_on(copy, "Permission denied").await;
}

#[tokio::test]
async fn it_is_cut_short() {
    let copy = |path: &Path| {
        fs::copy(program("vmlockd"), path).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_len(4000).unwrap();
    };
    the_old_one_goes_on(copy, "cannot").await;
}

#[tokio::test]
async fn it_is_garbage() {
    let garbage = |path: &Path| {
        fs::write(path, [0x7f; 4096]).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    };
    the_old_one_goes_on(garbage, "Exec format error").await;
}

#[tokio::test]
async fn it_fails_its_check() {
    let no = |path: &Path| script(path, "echo first >&2; echo 'no: '\"$*\" >&2; exit 3");
    the_old_one_goes_on(no, "cannot take over: no: --check-state").await;
}

/// It takes as long as the service has patience.
#[tokio::test]
async fn it_never_becomes_ready() {
    let scenario = Scenario::set_up().await;
    fs::remove_file(scenario.installed()).unwrap();
    script(&scenario.installed(), "exec sleep infinity");
    let (refused, ()) = tokio::join!(scenario.ask(), scenario.serves());
    assert!(
        refused.as_ref().unwrap_err().message.contains("it did not respond within"),
        "{refused:?}"
    );
    scenario.compare().await;
    scenario.serves().await;
    scenario.end().await;
}

#[tokio::test]
async fn the_state_is_a_newer_programs() {
    let mut scenario = Scenario::set_up().await;
    let state = scenario.daemon.launch().runtime_dir.join("state");
    let state = fs::File::options().write(true).open(state).unwrap();
    // Behind the word that it begins with.
    let (place, newer) = (14, VERSION + 1);
    state.write_all_at(newer.to_string().as_bytes(), place).unwrap();
    let said =
        format!("has version {newer}, and this program supports versions {OLDEST} to {VERSION};");
    goes_on(&scenario, &said).await;
    state.write_all_at(VERSION.to_string().as_bytes(), place).unwrap();
    scenario.replace(false).await;
    scenario.compare().await;
    scenario.end().await;
}

#[tokio::test]
async fn the_configuration_is_wrong() {
    let mut scenario = Scenario::set_up().await;
    scenario.fixture.configure("no_such_key = 1\n");
    goes_on(&scenario, "no_such_key").await;
    scenario.fixture.configure("");
    scenario.replace(false).await;
    scenario.compare().await;
    scenario.end().await;
}

/// The new program would have to write the state anew.
#[tokio::test]
async fn there_is_no_room() {
    let mut scenario = Scenario::set_up().await;
    let directory = scenario.daemon.launch().runtime_dir.clone();
    // Over what is there: what is open stays, and nothing can be put beside it.
    let mounted = TestMount::nothing_over(&directory);
    let name = scenario.watch.owned().await;
    scenario.daemon.signal(Signal::SIGUSR1);
    scenario.says("cannot re-execute vmlockd").await;
    scenario.watch.owned_by_other_than(&name).await;
    scenario.compare().await;
    drop(mounted);
    scenario.replace(true).await;
    scenario.compare().await;
    scenario.end().await;
}

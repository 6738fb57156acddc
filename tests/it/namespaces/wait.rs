//! Waiting by name from another mount namespace.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::assert_foreign;
use super::scenario::{Scenario, is_free};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::within;
use crate::wait::{LONG, until_waiting, wait};

/// Mounts a directory over another in the mount namespace of a process.
fn bind(pid: u32, from: &Path, at: &Path) {
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--target", &pid.to_string(), "mount", "--bind"]).args([from, at]);
    assert!(command.status().expect("nsenter is installed").success());
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_for_the_waiter_is_refused_when_its_turn_comes() {
    let scenario = Scenario::new().await;
    let (outer, (process, bus)) =
        (scenario.fixture.connection().await, scenario.bus(&scenario.beside()).await);
    let web1 = TestVm::open(&outer, "web1").await;
    let held = web1.acquire(&[exclusive(&scenario.disk())]).await.unwrap();
    let web2 = TestVm::open(&bus, "web2").await;
    let waits = wait(&outer, &web2, &[exclusive(&scenario.disk())], LONG).await;
    bind(process.pid(), &scenario.path("other"), &scenario.path("pool"));
    web1.release(&held).await.unwrap();
    let refused = within("the end of the wait", waits).await.unwrap().unwrap_err();
    assert_foreign(&refused, "leads to another file");
    assert!(is_free(&scenario.disk()) && is_free(&scenario.other()));
    until_waiting(&outer, 0).await;
}

#[tokio::test]
async fn a_name_that_is_given_to_another_file_for_both_is_followed() {
    let scenario = Scenario::new().await;
    let (outer, (_process, bus)) =
        (scenario.fixture.connection().await, scenario.bus(&scenario.beside()).await);
    let (disk, old) = (scenario.disk(), scenario.path("pool/old.img"));
    let web1 = TestVm::open(&outer, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let web2 = TestVm::open(&bus, "web2").await;
    let waits = wait(&outer, &web2, &[exclusive(&disk)], LONG).await;
    fs::rename(&disk, &old).unwrap();
    fs::copy(&old, &disk).unwrap();
    within("the lock", waits).await.unwrap().unwrap();
    assert!(!is_free(&disk) && !is_free(&old));
}

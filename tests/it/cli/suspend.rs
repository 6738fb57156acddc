//! `suspend` and `resume`: an owner releases its locks for a while and acquires them again.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use zbus::Connection;

use super::wait::until_said;
use super::{Tool, fails, json, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive, shared};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Fixture, ForeignHolder, LockType, polkit};
use crate::refused_requests::assert_free;
use crate::wait::until_waiting;

/// VM web1 is suspended, and VM web2 has one of its two disks.
struct Scenario {
    fixture: Fixture,
    bus: Connection,
    disks: [PathBuf; 2],
    web2: TestVm,
    _web1: TestVm,
}

impl Scenario {
    async fn set_up() -> Self {
        let fixture = Fixture::builder().start().await;
        let bus = fixture.connection().await;
        let disks = ["a", "b"].map(|name| fixture.raw_of(0, name));
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&disks[0]), shared(&disks[1])]).await.unwrap();
        vmlockctl(&fixture, &["suspend", "web1"]).await.ok();
        let web2 = TestVm::open(&bus, "web2").await;
        web2.acquire(&[exclusive(&disks[0])]).await.unwrap();
        Self { fixture, bus, disks, web2, _web1: web1 }
    }
}

#[tokio::test]
async fn an_owner_releases_its_locks_and_acquires_them_again() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let [a, b] = ["a", "b"].map(|name| fixture.raw_of(0, name));
    let web1 = TestVm::open(&bus, "web1").await;
    let uuid = web1.owner.uuid().await.unwrap();
    let nothing = vmlockctl(&fixture, &["suspend", "web1"]).await.ok();
    assert_eq!(nothing, format!("VM \"web1\" ({uuid}) holds no locks; it is not suspended\n"));
    web1.acquire(&[exclusive(&a), shared(&b)]).await.unwrap();

    let (a_name, b_name) = (str(&a), str(&b));
    let table = format!("MODE       RESOURCE\nexclusive  {a_name}\nshared     {b_name}\n");
    let said = vmlockctl(&fixture, &["suspend", &uuid[..13]]).await.ok();
    let expected = format!("VM \"web1\" ({uuid}) is suspended; it has released:\n{table}");
    assert_eq!(said, expected);
    for disk in [&a, &b] {
        assert_free(disk);
    }
    let said = vmlockctl(&fixture, &["suspend", "web1"]).await.ok();
    let expected = format!("VM \"web1\" ({uuid}) is suspended already; it has released:\n{table}");
    assert_eq!(said, expected);

    let told = json(&fixture, &["resume", "web1"]).await;
    assert_eq!((&told["uuid"], &told["name"]), (&uuid.as_str().into(), &"web1".into()));
    assert_eq!(told["owner"], web1.path().as_str());
    let locks = web1.locks().await;
    for (lock, (path, disk)) in
        told["locks"].as_array().unwrap().iter().zip(locks.iter().zip([a, b]))
    {
        assert_eq!((&lock["lock"], &lock["resource"]), (&path.as_str().into(), &str(&disk).into()));
        ForeignHolder::try_once(&disk, LockType::Ofd, true).unwrap_err();
    }
    let said = vmlockctl(&fixture, &["resume", "web1"]).await.ok();
    assert_eq!(said, format!("VM \"web1\" ({uuid}) is not suspended\n"));
    fails(&fixture, 66, &["suspend", "web9"]).await;
    fails(&fixture, 66, &["resume", "web9"]).await;
}

#[tokio::test]
async fn all_locks_are_acquired_or_none() {
    let scenario = Scenario::set_up().await;
    let said = fails(&scenario.fixture, 75, &["resume", "web1"]).await;
    assert!(said.contains(str(&scenario.disks[0])) && said.contains("\"web2\""), "{said}");
    assert_free(&scenario.disks[1]);
    drop(scenario.web2);
    vmlockctl(&scenario.fixture, &["resume", "--wait=1min", "web1"]).await.ok();
    ForeignHolder::try_once(&scenario.disks[1], LockType::Ofd, true).unwrap_err();
}

#[tokio::test]
async fn resume_waits_and_goes_on_when_the_service_restarts() {
    let scenario = Scenario::set_up().await;
    let mut tool = Tool::vmlockctl(&scenario.fixture, &["resume", "--wait", "web1"]);
    until_waiting(&scenario.bus, 1).await;
    let words =
        format!("waiting for disk {}: locked exclusively by VM \"web2\"", str(&scenario.disks[0]));
    until_said(&scenario.fixture, &tool, &words).await;
    scenario.fixture.daemon().kill9().await;
    scenario.fixture.daemon().start_again().await;
    until_waiting(&scenario.bus, 1).await;
    drop(scenario.web2);
    assert!(tool.line().await.ends_with("is resumed; it has acquired:"));
    assert!(tool.line().await.starts_with("LOCK"));
    assert!(tool.line().await.ends_with(str(&scenario.disks[0])));
    assert!(tool.line().await.ends_with(str(&scenario.disks[1])));
    assert_eq!(tool.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_signal_ends_the_wait_and_the_owner_stays_suspended() {
    let scenario = Scenario::set_up().await;
    let tool = Tool::vmlockctl(&scenario.fixture, &["resume", "--wait", "web1"]);
    until_waiting(&scenario.bus, 1).await;
    tool.signal(Signal::SIGINT);
    assert_eq!(tool.ended().await.signal(), Some(Signal::SIGINT as i32));
    until_waiting(&scenario.bus, 0).await;
    drop(scenario.web2);
    let owner = json(&scenario.fixture, &["owners"]).await;
    assert_eq!(owner[0]["state"], "suspended", "{owner}");
}

#[tokio::test]
async fn the_locks_of_another_user_are_released_by_force_only() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let disk = fixture.raw_of(NOBODY, "a");
    let line =
        ["run", "--name", "web1", "--disk", str(&disk), "--", "sh", "-c", "echo go; exec cat"];
    let mut command = fixture.command_as(NOBODY, "vmlockctl");
    command.arg("--system").args(line);
    let mut tool = Tool::start(&fixture, command);
    assert_eq!(tool.line().await, "go");
    let said = fails(&fixture, 77, &["suspend", "web1"]).await;
    assert!(said.contains("'vmlockctl suspend --force web1' breaks it"), "{said}");
    ForeignHolder::try_once(&disk, LockType::Ofd, true).unwrap_err();
    vmlockctl(&fixture, &["suspend", "--force", "web1"]).await.ok();
    assert_free(&disk);
    assert!(tool.finish().await.success());
}

//! `suspend` and `resume`: an owner releases its locks for a while and acquires them again.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use zbus::Connection;

use super::wait::until_said;
use super::{Tool, fails, json, str, vmlockctl};
use crate::house::user::NOBODY;
use crate::house::{Answer, House, Kind, Rival, polkit};
use crate::machine::{Machine, exclusive, shared};
use crate::untouched::assert_free;
use crate::wait::until_waiting;

/// VM web1 is suspended, and VM web2 has one of its two disks.
struct Scene {
    house: House,
    bus: Connection,
    disks: [PathBuf; 2],
    web2: Machine,
    _web1: Machine,
}

impl Scene {
    async fn set() -> Self {
        let house = House::builder().start().await;
        let bus = house.connection().await;
        let disks = ["a", "b"].map(|name| house.raw_of(0, name));
        let web1 = Machine::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&disks[0]), shared(&disks[1])]).await.unwrap();
        vmlockctl(&house, &["suspend", "web1"]).await.ok();
        let web2 = Machine::open(&bus, "web2").await;
        web2.acquire(&[exclusive(&disks[0])]).await.unwrap();
        Self { house, bus, disks, web2, _web1: web1 }
    }
}

#[tokio::test]
async fn an_owner_releases_its_locks_and_acquires_them_again() {
    let house = House::builder().start().await;
    let bus = house.connection().await;
    let [a, b] = ["a", "b"].map(|name| house.raw_of(0, name));
    let web1 = Machine::open(&bus, "web1").await;
    let uuid = web1.owner.uuid().await.unwrap();
    let nothing = vmlockctl(&house, &["suspend", "web1"]).await.ok();
    assert_eq!(nothing, format!("VM \"web1\" ({uuid}) holds no locks; it is not suspended\n"));
    web1.acquire(&[exclusive(&a), shared(&b)]).await.unwrap();

    let (a_name, b_name) = (str(&a), str(&b));
    let table = format!("MODE       RESOURCE\nexclusive  {a_name}\nshared     {b_name}\n");
    let said = vmlockctl(&house, &["suspend", &uuid[..13]]).await.ok();
    let expected = format!("VM \"web1\" ({uuid}) is suspended; it has released:\n{table}");
    assert_eq!(said, expected);
    for disk in [&a, &b] {
        assert_free(disk);
    }
    let said = vmlockctl(&house, &["suspend", "web1"]).await.ok();
    let expected = format!("VM \"web1\" ({uuid}) is suspended already; it has released:\n{table}");
    assert_eq!(said, expected);

    let told = json(&house, &["resume", "web1"]).await;
    assert_eq!((&told["uuid"], &told["name"]), (&uuid.as_str().into(), &"web1".into()));
    assert_eq!(told["owner"], web1.path().as_str());
    let locks = web1.locks().await;
    for (lock, (path, disk)) in
        told["locks"].as_array().unwrap().iter().zip(locks.iter().zip([a, b]))
    {
        assert_eq!((&lock["lock"], &lock["resource"]), (&path.as_str().into(), &str(&disk).into()));
        Rival::try_once(&disk, Kind::Ofd, true).unwrap_err();
    }
    let said = vmlockctl(&house, &["resume", "web1"]).await.ok();
    assert_eq!(said, format!("VM \"web1\" ({uuid}) is not suspended\n"));
    fails(&house, 66, &["suspend", "web9"]).await;
    fails(&house, 66, &["resume", "web9"]).await;
}

#[tokio::test]
async fn all_locks_are_acquired_or_none() {
    let scene = Scene::set().await;
    let said = fails(&scene.house, 75, &["resume", "web1"]).await;
    assert!(said.contains(str(&scene.disks[0])) && said.contains("\"web2\""), "{said}");
    assert_free(&scene.disks[1]);
    drop(scene.web2);
    vmlockctl(&scene.house, &["resume", "--wait=1min", "web1"]).await.ok();
    Rival::try_once(&scene.disks[1], Kind::Ofd, true).unwrap_err();
}

#[tokio::test]
async fn resume_waits_and_goes_on_when_the_service_restarts() {
    let scene = Scene::set().await;
    let mut tool = Tool::vmlockctl(&scene.house, &["resume", "--wait", "web1"]);
    until_waiting(&scene.bus, 1).await;
    let words =
        format!("waiting for disk {}: locked exclusively by VM \"web2\"", str(&scene.disks[0]));
    until_said(&scene.house, &tool, &words).await;
    scene.house.daemon().kill9().await;
    scene.house.daemon().start_again().await;
    until_waiting(&scene.bus, 1).await;
    drop(scene.web2);
    assert!(tool.line().await.ends_with("is resumed; it has acquired:"));
    assert!(tool.line().await.starts_with("LOCK"));
    assert!(tool.line().await.ends_with(str(&scene.disks[0])));
    assert!(tool.line().await.ends_with(str(&scene.disks[1])));
    assert_eq!(tool.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_signal_ends_the_wait_and_the_owner_stays_suspended() {
    let scene = Scene::set().await;
    let tool = Tool::vmlockctl(&scene.house, &["resume", "--wait", "web1"]);
    until_waiting(&scene.bus, 1).await;
    tool.signal(Signal::SIGINT);
    assert_eq!(tool.ended().await.signal(), Some(Signal::SIGINT as i32));
    until_waiting(&scene.bus, 0).await;
    drop(scene.web2);
    let owner = json(&scene.house, &["owners"]).await;
    assert_eq!(owner[0]["state"], "suspended", "{owner}");
}

#[tokio::test]
async fn the_locks_of_another_user_are_released_by_force_only() {
    let house = House::builder().polkit(polkit::Choice::Mock).start().await;
    house.polkit().mock().answer(Answer::Allow);
    let disk = house.raw_of(NOBODY, "a");
    let line =
        ["run", "--name", "web1", "--disk", str(&disk), "--", "sh", "-c", "echo go; exec cat"];
    let mut command = house.command_as(NOBODY, "vmlockctl");
    command.arg("--system").args(line);
    let mut tool = Tool::start(&house, command);
    assert_eq!(tool.line().await, "go");
    let said = fails(&house, 77, &["suspend", "web1"]).await;
    assert!(said.contains("'vmlockctl suspend --force web1' breaks it"), "{said}");
    Rival::try_once(&disk, Kind::Ofd, true).unwrap_err();
    vmlockctl(&house, &["suspend", "--force", "web1"]).await.ok();
    assert_free(&disk);
    assert!(tool.finish().await.success());
}

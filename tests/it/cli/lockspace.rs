//! Lockspaces and leases by hand.

use std::path::PathBuf;

use serde_json::json;
use zbus::Connection;

use super::{Tool, fails, str, vmlockctl};
use crate::house::user::NOBODY;
use crate::house::{House, Kind, Rival};
use crate::machine::{Machine, manager};
use crate::methods::none;

/// A lockspace, and the name of a lease in it.
async fn leased(house: &House, bus: &Connection) -> (PathBuf, String) {
    let dir = house.dir().join("leases");
    let manager = manager(bus).await;
    manager.create_lockspace(str(&dir), none()).await.unwrap();
    let name = format!("lease:{}/web", dir.display());
    manager.create_lease(&name, none()).await.unwrap();
    (dir, name)
}

#[tokio::test]
async fn a_lockspace_and_its_leases_come_and_go() {
    let house = House::builder().start().await;
    let dir = house.dir().join("leases");
    let key = format!("{}/web", dir.display());
    let said = fails(&house, 66, &["lockspace", "create-lease", &key]).await;
    assert!(said.contains("does not exist; create it first"), "{said}");
    let made = vmlockctl(&house, &["lockspace", "create", str(&dir)]).await.ok();
    assert_eq!(made, "");
    let made = super::json(&house, &["lockspace", "create", str(&dir)]).await;
    assert_eq!(made, json!({ "lockspace": "/org/vmlockd1/lockspace/lease_1" }));
    let list = vmlockctl(&house, &["lockspace", "list"]).await.ok();
    let lines: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["LOCKSPACE", "KIND", "LOCKS", "DIRECTORY"]);
    assert_eq!(lines[1], ["direct", "direct", "0"]);
    assert_eq!(lines[2], ["lease_1", "lease", "0", str(&dir)]);
    let list = super::json(&house, &["lockspace", "list"]).await;
    assert_eq!(list[1]["directory"], str(&dir));
    assert_eq!(list[1]["lockspace"], "/org/vmlockd1/lockspace/lease_1");

    let said = fails(&house, 66, &["run", "--lease", &key, "--", "true"]).await;
    assert!(said.contains(&format!("lease {key} does not exist")), "{said}");
    // Either way of saying that it is a lease will do.
    vmlockctl(&house, &["lockspace", "create-lease", &key]).await.ok();
    vmlockctl(&house, &["lockspace", "create-lease", &format!("lease:{key}")]).await.ok();
    assert!(dir.join("web").exists());
    let said = fails(&house, 1, &["lockspace", "remove", str(&dir)]).await;
    assert!(said.contains("not empty"), "{said}");
    vmlockctl(&house, &["lockspace", "remove-lease", &key]).await.ok();
    fails(&house, 66, &["lockspace", "remove-lease", &key]).await;
    vmlockctl(&house, &["lockspace", "remove", str(&dir)]).await.ok();
    let said = fails(&house, 66, &["lockspace", "remove", str(&dir)]).await;
    assert!(said.contains("is not a lockspace") && !said.contains("create it first"), "{said}");
    assert!(!dir.exists());
    fails(&house, 64, &["lockspace", "create", "/a/../b"]).await;
}

#[tokio::test]
async fn a_command_has_its_lease_for_as_long_as_it_lives() {
    let house = House::builder().start().await;
    let bus = house.connection().await;
    let (dir, name) = leased(&house, &bus).await;
    let (key, disk) = (&name[6..], house.image("a.qcow2").await);

    let line = ["--name", "web1", "--lease", key, "--disk", str(&disk)];
    let (tool, pid) = Tool::holding(&house, &line).await;
    Rival::try_once(dir.join("web"), Kind::Posix, true).unwrap_err();
    for line in [
        &["run", "--lease", &format!("{key}:shared"), "--", "true"][..],
        &["lock", &name],
        &["lock", &format!("{name}:shared")],
        &["lockspace", "remove-lease", key],
    ] {
        let said = fails(&house, 75, line).await;
        let words = format!("lease {key} is locked exclusively by VM \"web1\"");
        assert!(said.contains(&words), "{said}");
    }
    let said = vmlockctl(&house, &["who", &name]).await.ok();
    assert!(
        said.starts_with(&format!("lease {key} is locked exclusively by VM \"web1\"")),
        "{said}"
    );
    assert!(said.contains(&format!("pid {pid}")), "{said}");
    let shown = super::json(&house, &["show", &name]).await;
    assert_eq!(shown[0]["resource"], name);
    let resolved = super::json(&house, &["resolve", &name]).await;
    assert_eq!(resolved["lock-file"], key);
    assert!(tool.finish().await.success());
    vmlockctl(&house, &["run", "--lease", key, "--", "true"]).await.ok();
    let ran = vmlockctl(&house, &["who", &name]).await;
    assert_eq!((ran.status.code(), ran.stderr), (Some(3), format!("nobody holds lease {key}\n")));

    vmlockctl(&house, &["lock", &format!("{name}:shared")]).await.ok();
    let said = fails(&house, 75, &["run", "--lease", key, "--", "true"]).await;
    assert!(said.contains("locked in shared mode by VM \"vmlockctl lock\""), "{said}");
    vmlockctl(&house, &["unlock", &name]).await.ok();
    // A relative name is one of here.
    let mut command = house.command("vmlockctl");
    command.current_dir(house.dir()).args(["lock", "lease:leases/web"]);
    crate::house::run(command).await.ok();
    vmlockctl(&house, &["release", &name]).await.ok();
    fails(&house, 66, &["release", &name]).await;
}

#[tokio::test]
async fn a_disk_that_is_only_recorded_is_said_to_be_just_that() {
    let house = House::builder().config("auto_disk_leases = 0\n").start().await;
    let (disk, dir) = (house.image("a.qcow2").await, house.dir().join("leases"));
    let said = fails(&house, 1, &["run", "--disk", str(&disk), "--", "true"]).await;
    assert!(said.contains("for writing without a lease"), "{said}");
    vmlockctl(&house, &["lockspace", "create", str(&dir)]).await.ok();
    let key = format!("{}/web", dir.display());
    vmlockctl(&house, &["lockspace", "create-lease", &key]).await.ok();
    let line = ["--name", "web1", "--disk", str(&disk), "--lease", &key];
    let (tool, _) = Tool::holding(&house, &line).await;
    let said = vmlockctl(&house, &["who", str(&disk)]).await.ok();
    let words = format!("disk {} is recorded, and not locked, for VM \"web1\"", disk.display());
    assert!(said.starts_with(&words), "{said}");
    let list = super::json(&house, &["list"]).await;
    assert_eq!((&list[0]["mode"], &list[1]["mode"]), (&json!("none"), &json!("exclusive")));
    assert!(tool.finish().await.success());
}

#[tokio::test]
async fn others_are_not_authorized() {
    let house = House::builder().start().await;
    let bus = house.connection().await;
    let (dir, name) = leased(&house, &bus).await;
    let roots = Machine::open(&bus, "roots").await;
    roots.acquire(&[(&name, "exclusive")]).await.unwrap();
    let new = house.dir().join("new").display().to_string();
    for line in [
        &["lockspace", "create", &new][..],
        &["lockspace", "remove", str(&dir)],
        &["lockspace", "create-lease", &name],
        &["lockspace", "remove-lease", &name],
        &["lock", &name],
        &["run", "--lease", &name, "--", "true"],
        &["resolve", &name],
    ] {
        let line = [&["--system"], line].concat();
        let ran = house.run_as(NOBODY, "vmlockctl", &line).await;
        assert_eq!(ran.status.code(), Some(77), "{line:?}: {ran:#?}");
    }
    for line in [&["--system", "lockspace", "list"][..], &["--system", "who", &name]] {
        house.run_as(NOBODY, "vmlockctl", line).await.ok();
    }
}

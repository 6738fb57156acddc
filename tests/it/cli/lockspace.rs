//! Lockspaces and leases by hand.

use std::path::PathBuf;

use serde_json::json;
use zbus::Connection;

use super::{Tool, fails, str, vmlockctl};
use crate::dbus_client::{TestVm, manager};
use crate::fixture::user::NOBODY;
use crate::fixture::{Fixture, ForeignHolder, LockType};
use crate::methods::none;

/// A lockspace, and the name of a lease in it.
async fn leased(fixture: &Fixture, bus: &Connection) -> (PathBuf, String) {
    let dir = fixture.dir().join("leases");
    let manager = manager(bus).await;
    manager.create_lockspace(str(&dir), none()).await.unwrap();
    let name = format!("lease:{}/web", dir.display());
    manager.create_lease(&name, none()).await.unwrap();
    (dir, name)
}

#[tokio::test]
async fn a_lockspace_and_its_leases_come_and_go() {
    let fixture = Fixture::builder().start().await;
    let dir = fixture.dir().join("leases");
    let key = format!("{}/web", dir.display());
    let said = fails(&fixture, 66, &["lockspace", "create-lease", &key]).await;
    assert!(said.contains("does not exist; create it first"), "{said}");
    let made = vmlockctl(&fixture, &["lockspace", "create", str(&dir)]).await.ok();
    assert_eq!(made, "");
    let made = super::json(&fixture, &["lockspace", "create", str(&dir)]).await;
    assert_eq!(made, json!({ "lockspace": "/org/vmlockd1/lockspace/lease_1" }));
    let list = vmlockctl(&fixture, &["lockspace", "list"]).await.ok();
    let lines: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["LOCKSPACE", "KIND", "LOCKS", "DIRECTORY"]);
    assert_eq!(lines[1], ["direct", "direct", "0"]);
    assert_eq!(lines[2], ["lease_1", "lease", "0", str(&dir)]);
    let list = super::json(&fixture, &["lockspace", "list"]).await;
    assert_eq!(list[1]["directory"], str(&dir));
    assert_eq!(list[1]["lockspace"], "/org/vmlockd1/lockspace/lease_1");

    let said = fails(&fixture, 66, &["run", "--lease", &key, "--", "true"]).await;
    assert!(said.contains(&format!("lease {key} does not exist")), "{said}");
    // Either way of saying that it is a lease will do.
    vmlockctl(&fixture, &["lockspace", "create-lease", &key]).await.ok();
    vmlockctl(&fixture, &["lockspace", "create-lease", &format!("lease:{key}")]).await.ok();
    assert!(dir.join("web").exists());
    let said = fails(&fixture, 1, &["lockspace", "remove", str(&dir)]).await;
    assert!(said.contains("not empty"), "{said}");
    vmlockctl(&fixture, &["lockspace", "remove-lease", &key]).await.ok();
    fails(&fixture, 66, &["lockspace", "remove-lease", &key]).await;
    vmlockctl(&fixture, &["lockspace", "remove", str(&dir)]).await.ok();
    let said = fails(&fixture, 66, &["lockspace", "remove", str(&dir)]).await;
    assert!(said.contains("is not a lockspace") && !said.contains("create it first"), "{said}");
    assert!(!dir.exists());
    fails(&fixture, 64, &["lockspace", "create", "/a/../b"]).await;
}

#[tokio::test]
async fn a_command_has_its_lease_for_as_long_as_it_lives() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (dir, name) = leased(&fixture, &bus).await;
    let (key, disk) = (&name[6..], fixture.image("a.qcow2").await);

    let line = ["--name", "web1", "--lease", key, "--disk", str(&disk)];
    let (tool, pid) = Tool::holding(&fixture, &line).await;
    ForeignHolder::try_once(dir.join("web"), LockType::Posix, true).unwrap_err();
    for line in [
        &["run", "--lease", &format!("{key}:shared"), "--", "true"][..],
        &["lock", &name],
        &["lock", &format!("{name}:shared")],
        &["lockspace", "remove-lease", key],
    ] {
        let said = fails(&fixture, 75, line).await;
        let words = format!("lease {key} is locked exclusively by VM \"web1\"");
        assert!(said.contains(&words), "{said}");
    }
    let said = vmlockctl(&fixture, &["who", &name]).await.ok();
    assert!(
        said.starts_with(&format!("lease {key} is locked exclusively by VM \"web1\"")),
        "{said}"
    );
    assert!(said.contains(&format!("pid {pid}")), "{said}");
    let shown = super::json(&fixture, &["show", &name]).await;
    assert_eq!(shown[0]["resource"], name);
    let resolved = super::json(&fixture, &["resolve", &name]).await;
    assert_eq!(resolved["lock-file"], key);
    assert!(tool.finish().await.success());
    vmlockctl(&fixture, &["run", "--lease", key, "--", "true"]).await.ok();
    let ran = vmlockctl(&fixture, &["who", &name]).await;
    assert_eq!((ran.status.code(), ran.stderr), (Some(3), format!("nobody holds lease {key}\n")));

    vmlockctl(&fixture, &["lock", &format!("{name}:shared")]).await.ok();
    let said = fails(&fixture, 75, &["run", "--lease", key, "--", "true"]).await;
    assert!(said.contains("locked in shared mode by VM \"vmlockctl lock\""), "{said}");
    vmlockctl(&fixture, &["unlock", &name]).await.ok();
    // A relative name is one of here.
    let mut command = fixture.command("vmlockctl");
    command.current_dir(fixture.dir()).args(["lock", "lease:leases/web"]);
    crate::fixture::run(command).await.ok();
    vmlockctl(&fixture, &["release", &name]).await.ok();
    fails(&fixture, 66, &["release", &name]).await;
}

#[tokio::test]
async fn a_disk_that_is_only_recorded_is_said_to_be_just_that() {
    let fixture = Fixture::builder().config("auto_disk_leases = 0\n").start().await;
    let (disk, dir) = (fixture.image("a.qcow2").await, fixture.dir().join("leases"));
    let said = fails(&fixture, 1, &["run", "--disk", str(&disk), "--", "true"]).await;
    assert!(said.contains("for writing without a lease"), "{said}");
    vmlockctl(&fixture, &["lockspace", "create", str(&dir)]).await.ok();
    let key = format!("{}/web", dir.display());
    vmlockctl(&fixture, &["lockspace", "create-lease", &key]).await.ok();
    let line = ["--name", "web1", "--disk", str(&disk), "--lease", &key];
    let (tool, _) = Tool::holding(&fixture, &line).await;
    let said = vmlockctl(&fixture, &["who", str(&disk)]).await.ok();
    let words = format!("disk {} is recorded, and not locked, for VM \"web1\"", disk.display());
    assert!(said.starts_with(&words), "{said}");
    let list = super::json(&fixture, &["list"]).await;
    assert_eq!((&list[0]["mode"], &list[1]["mode"]), (&json!("none"), &json!("exclusive")));
    assert!(tool.finish().await.success());
}

#[tokio::test]
async fn other_users_are_not_authorized() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (dir, name) = leased(&fixture, &bus).await;
    let roots = TestVm::open(&bus, "roots").await;
    roots.acquire(&[(&name, "exclusive")]).await.unwrap();
    let new = fixture.dir().join("new").display().to_string();
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
        let ran = fixture.run_as(NOBODY, "vmlockctl", &line).await;
        assert_eq!(ran.status.code(), Some(77), "{line:?}: {ran:#?}");
    }
    for line in [&["--system", "lockspace", "list"][..], &["--system", "who", &name]] {
        fixture.run_as(NOBODY, "vmlockctl", line).await.ok();
    }
}

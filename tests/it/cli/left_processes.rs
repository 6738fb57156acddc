//! `vmlockctl run` when its command has ended and left processes behind.

use std::fs;

use futures_util::StreamExt as _;
use zbus::ObjectPath;

use super::forged::name_of;
use super::{Tool, fails, json, str};
use crate::dbus_client::manager;
use crate::fixture::user::NOBODY;
use crate::fixture::{Fixture, within};
use crate::refused_requests::assert_free;

/// The shell gives /dev/null to what it puts into the background; so it gets its input by another
/// number, and ends with that. It closes what it inherits if told so.
const HELPER: &str = "exec 9<&0; $0; setsid cat <&9 9<&- >/dev/null 2>/dev/null & echo $!";
const CLOSE: &str = "eval \"exec $VMLOCKD_LIFELINE_FD<&-\"";

/// Runs a command that leaves a helper behind; returns the helper's process.
async fn leave(fixture: &Fixture, disk: &str, before: &str) -> (Tool, i32) {
    let script = HELPER.replace("$0", before);
    let line = ["run", "--disk", disk, "--", "bash", "-c", &script];
    let mut tool = Tool::vmlockctl(fixture, &line);
    let helper = tool.line().await.parse().unwrap();
    (tool, helper)
}

#[tokio::test]
async fn a_process_that_keeps_the_lifeline_is_named() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.raw_of(0, "disk");
    let manager = manager(&fixture.connection().await).await;
    let mut released = manager.receive_lock_released().await.unwrap();
    let (mut tool, helper) = leave(&fixture, str(&image), ":").await;
    assert!(tool.ended().await.success());
    let said = tool.process.stderr();
    let words = format!("(pid {helper}) keeps the disks locked until it ends");
    assert!(said.contains(&words), "{said}");
    let said = fails(&fixture, 75, &["run", "--disk", str(&image), "--", "true"]).await;
    let held = format!("; its lifeline is held by cat (pid {helper})");
    assert!(said.contains(&held), "{said}");
    let said = super::vmlockctl(&fixture, &["who", str(&image)]).await.ok();
    assert!(said.contains(&held), "{said}");
    let holders = json(&fixture, &["who", str(&image)]).await;
    let keepers = &holders[0]["holders"][0]["lifeline-processes"];
    assert_eq!(*keepers, serde_json::json!([[helper, "cat"]]));
    tool.end_input();
    within("the release", released.next()).await.unwrap();
    assert_free(&image);
}

#[tokio::test]
async fn a_process_that_closed_the_lifeline_is_named_and_the_disks_are_free() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.raw_of(0, "disk");
    let (mut tool, helper) = leave(&fixture, str(&image), CLOSE).await;
    assert!(tool.ended().await.success());
    let said = tool.process.stderr();
    assert!(said.contains("no longer locked") && said.contains("vmlockctl(1)"), "{said}");
    assert!(said.contains(&format!("(pid {helper}), which it started, is running")), "{said}");
    assert_free(&image);
    tool.end_input();
}

#[tokio::test]
async fn a_process_that_closed_the_lifeline_and_has_a_disk_open_keeps_the_disks() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.raw_of(0, "disk");
    let manager = manager(&fixture.connection().await).await;
    let mut released = manager.receive_lock_released().await.unwrap();
    let before = format!("exec 8<>{}; {CLOSE}", str(&image));
    let (mut tool, helper) = leave(&fixture, str(&image), &before).await;
    assert!(tool.ended().await.success());
    let said = tool.process.stderr();
    let words = format!("(pid {helper}) keeps the disks locked until it ends");
    assert!(said.contains(&words), "{said}");
    let owners = json(&fixture, &["owners"]).await;
    assert_eq!(owners[0]["anchors"], serde_json::json!(["process"]));
    fails(&fixture, 75, &["run", "--disk", str(&image), "--", "true"]).await;
    tool.end_input();
    within("the release", released.next()).await.unwrap();
    assert_free(&image);
}

#[tokio::test]
async fn a_command_that_leaves_no_process_prints_nothing() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.raw_of(0, "disk");
    // Processes that end with it are not a reason either.
    for script in ["true", "(exec true) & true", "setsid -f true", "echo | cat"] {
        let line = ["run", "--disk", str(&image), "--", "bash", "-c", script];
        let ran = super::vmlockctl(&fixture, &line).await;
        assert!(ran.status.success() && ran.stderr.is_empty(), "{script}: {ran:?}");
    }
}

#[tokio::test]
async fn orphans_that_end_are_no_zombies() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.raw_of(0, "disk");
    let script = "setsid -f true; setsid -f true; echo $$; exec cat";
    let line = ["run", "--disk", str(&image), "--", "sh", "-c", script];
    let mut tool = Tool::vmlockctl(&fixture, &line);
    let command = tool.line().await;
    let pid = tool.process.pid();
    let alone = async {
        loop {
            let mut children = String::new();
            for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
                children += &fs::read_to_string(task.unwrap().path().join("children")).unwrap();
            }
            if children.split_whitespace().eq([command.as_str()]) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    within("no child but the command", alone).await;
    assert!(tool.finish().await.success());
}

#[tokio::test]
async fn forged_signals_do_not_hide_that_the_disks_stay_locked() {
    let fixture = Fixture::builder().start().await;
    let (bus, forger) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let image = fixture.raw_of(0, "disk");
    let manager = manager(&bus).await;
    let script = HELPER.replace("$0", "read _");
    let line = ["run", "--disk", str(&image), "--", "bash", "-c", &script];
    let mut tool = Tool::vmlockctl(&fixture, &line);
    let owner = async {
        loop {
            let owners = json(&fixture, &["owners"]).await;
            if owners[0]["anchors"] == serde_json::json!(["lifeline", "process"]) {
                return owners[0]["owner"].as_str().unwrap().to_owned();
            }
        }
    };
    let owner = within("its owner", owner).await;
    let victim = name_of(&bus, tool.process.pid()).await;
    // From before the command ends until the tool has.
    let forge = tokio::spawn(async move {
        let owner = ObjectPath::try_from(owner).unwrap();
        let body = (&owner, vec!["org.vmlockd1.Owner"]);
        let interface = "org.freedesktop.DBus.ObjectManager";
        let fdo = zbus::fdo::DBusProxy::new(&forger).await.unwrap();
        loop {
            let to = Some(&victim);
            let sent =
                forger.emit_signal(to, "/org/vmlockd1", interface, "InterfacesRemoved", &body);
            sent.await.unwrap();
            fdo.get_id().await.unwrap();
        }
    });
    tool.write_line("");
    let helper: i32 = tool.line().await.parse().unwrap();
    assert!(tool.ended().await.success());
    assert!(!forge.is_finished());
    forge.abort();
    let said = tool.process.stderr();
    assert!(said.contains(&format!("(pid {helper}) keeps the disks locked")), "{said}");
    assert_eq!(manager.n_locks().await.unwrap(), 1);
    tool.end_input();
}

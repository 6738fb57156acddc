//! `vmlockctl run` when its command has ended and left processes behind.

use std::fs;

use futures_util::StreamExt as _;
use zbus::ObjectPath;

use super::forged::name_of;
use super::{Tool, fails, json, str};
use crate::house::user::NOBODY;
use crate::house::{House, within};
use crate::machine::manager;
use crate::untouched::assert_free;

/// The shell gives /dev/null to what it puts into the background; so it gets its input by another
/// number, and ends with that. It closes what it inherits if told so.
const HELPER: &str = "exec 9<&0; $0; setsid cat <&9 9<&- >/dev/null 2>/dev/null & echo $!";
const CLOSE: &str = "eval \"exec $VMLOCKD_LIFELINE_FD<&-\"";

/// Runs a command that leaves a helper behind; returns the helper's process.
async fn leave(house: &House, disk: &str, before: &str) -> (Tool, i32) {
    let script = HELPER.replace("$0", before);
    let line = ["run", "--disk", disk, "--", "bash", "-c", &script];
    let mut tool = Tool::vmlockctl(house, &line);
    let helper = tool.line().await.parse().unwrap();
    (tool, helper)
}

#[tokio::test]
async fn a_process_that_keeps_the_lifeline_is_named() {
    let house = House::builder().start().await;
    let image = house.raw_of(0, "disk");
    let manager = manager(&house.connection().await).await;
    let mut released = manager.receive_lock_released().await.unwrap();
    let (mut tool, helper) = leave(&house, str(&image), ":").await;
    assert!(tool.ended().await.success());
    let said = tool.process.stderr();
    let words = format!("(pid {helper}) keeps the disks locked until it ends");
    assert!(said.contains(&words), "{said}");
    let said = fails(&house, 75, &["run", "--disk", str(&image), "--", "true"]).await;
    let held = format!("; its lifeline is held by cat (pid {helper})");
    assert!(said.contains(&held), "{said}");
    let said = super::vmlockctl(&house, &["who", str(&image)]).await.ok();
    assert!(said.contains(&held), "{said}");
    let holders = json(&house, &["who", str(&image)]).await;
    let keepers = &holders[0]["holders"][0]["lifeline-processes"];
    assert_eq!(*keepers, serde_json::json!([[helper, "cat"]]));
    tool.end_input();
    within("the release", released.next()).await.unwrap();
    assert_free(&image);
}

#[tokio::test]
async fn a_process_that_closed_the_lifeline_is_named_and_the_disks_are_free() {
    let house = House::builder().start().await;
    let image = house.raw_of(0, "disk");
    let (mut tool, helper) = leave(&house, str(&image), CLOSE).await;
    assert!(tool.ended().await.success());
    let said = tool.process.stderr();
    assert!(said.contains("no longer locked") && said.contains("vmlockctl(1)"), "{said}");
    assert!(said.contains(&format!("(pid {helper}), which it started, is running")), "{said}");
    assert_free(&image);
    tool.end_input();
}

#[tokio::test]
async fn a_process_that_closed_the_lifeline_and_has_a_disk_open_keeps_the_disks() {
    let house = House::builder().start().await;
    let image = house.raw_of(0, "disk");
    let manager = manager(&house.connection().await).await;
    let mut released = manager.receive_lock_released().await.unwrap();
    let before = format!("exec 8<>{}; {CLOSE}", str(&image));
    let (mut tool, helper) = leave(&house, str(&image), &before).await;
    assert!(tool.ended().await.success());
    let said = tool.process.stderr();
    let words = format!("(pid {helper}) keeps the disks locked until it ends");
    assert!(said.contains(&words), "{said}");
    let owners = json(&house, &["owners"]).await;
    assert_eq!(owners[0]["anchors"], serde_json::json!(["process"]));
    fails(&house, 75, &["run", "--disk", str(&image), "--", "true"]).await;
    tool.end_input();
    within("the release", released.next()).await.unwrap();
    assert_free(&image);
}

#[tokio::test]
async fn a_command_that_leaves_nothing_behind_needs_no_word() {
    let house = House::builder().start().await;
    let image = house.raw_of(0, "disk");
    // What ends with it is no reason for one either.
    for script in ["true", "(exec true) & true", "setsid -f true", "echo | cat"] {
        let line = ["run", "--disk", str(&image), "--", "bash", "-c", script];
        let ran = super::vmlockctl(&house, &line).await;
        assert!(ran.status.success() && ran.stderr.is_empty(), "{script}: {ran:?}");
    }
}

#[tokio::test]
async fn orphans_that_end_are_no_zombies() {
    let house = House::builder().start().await;
    let image = house.raw_of(0, "disk");
    let script = "setsid -f true; setsid -f true; echo $$; exec cat";
    let line = ["run", "--disk", str(&image), "--", "sh", "-c", script];
    let mut tool = Tool::vmlockctl(&house, &line);
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
    let house = House::builder().start().await;
    let (bus, forger) = (house.connection().await, house.connection_as(NOBODY).await);
    let image = house.raw_of(0, "disk");
    let manager = manager(&bus).await;
    let script = HELPER.replace("$0", "read _");
    let line = ["run", "--disk", str(&image), "--", "bash", "-c", &script];
    let mut tool = Tool::vmlockctl(&house, &line);
    let owner = async {
        loop {
            let owners = json(&house, &["owners"]).await;
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
    tool.say("");
    let helper: i32 = tool.line().await.parse().unwrap();
    assert!(tool.ended().await.success());
    assert!(!forge.is_finished());
    forge.abort();
    let said = tool.process.stderr();
    assert!(said.contains(&format!("(pid {helper}) keeps the disks locked")), "{said}");
    assert_eq!(manager.n_locks().await.unwrap(), 1);
    tool.end_input();
}

//! `--watch`: a list is printed again when it changes.

use std::collections::HashMap;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Tool, str};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::{Fixture, program};
use crate::wait::wait;

/// Starts a list whose remarks stand among what it prints.
fn watch(fixture: &Fixture, arguments: &[&str]) -> Tool {
    let mut command = fixture.command("sh");
    let program = program("vmlockctl");
    command.args(["-c", "exec \"$@\" 2>&1", "sh", str(&program)]).args(arguments).arg("--watch");
    Tool::start(fixture, command)
}

/// Reads lists until one has so many rows.
async fn rows(tool: &mut Tool, count: usize) -> Vec<Value> {
    loop {
        let line = tool.line().await;
        let list: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let list = list.as_array().unwrap();
        if list.len() == count {
            return list.clone();
        }
    }
}

#[tokio::test]
async fn each_list_is_a_line_for_programs() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "a");
    let mut tools = ["list", "owners", "waiting"].map(|list| watch(&fixture, &["--json", list]));
    for tool in &mut tools {
        rows(tool, 0).await;
    }
    let [locks, owners, waiting] = &mut tools;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    assert_eq!(rows(locks, 1).await[0]["resource"], str(&disk));
    assert_eq!(rows(owners, 1).await[0]["name"], "web1");
    let web2 = TestVm::open(&bus, "web2").await;
    let waits = wait(&bus, &web2, &[exclusive(&disk)], 60_000_000).await;
    assert_eq!(rows(waiting, 1).await[0]["name"], "web2");
    drop(web1);
    waits.await.unwrap().unwrap();
    rows(waiting, 0).await;
    while rows(locks, 1).await[0]["name"] != "web2" {}
    for tool in tools {
        tool.signal(Signal::SIGINT);
        assert_eq!(tool.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn it_outlasts_a_restart_of_the_service() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "a");
    let mut tool = watch(&fixture, &["list"]);
    assert_eq!(tool.line().await, "no locks");
    assert_eq!(tool.line().await, "");
    fixture.daemon().terminate().await;
    assert!(tool.line().await.contains("vmlockd is not running on the system bus; waiting for it"));
    fixture.daemon().start_again().await;
    assert!(tool.line().await.contains("vmlockd is running on the system bus again"));
    assert_eq!(tool.line().await, "no locks");
    assert_eq!(tool.line().await, "");
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    assert!(tool.line().await.starts_with("LOCK"));
    assert!(tool.line().await.contains(str(&disk)));
    assert_eq!(tool.line().await, "");
    web1.owner.close(HashMap::new()).await.unwrap();
    assert_eq!(tool.line().await, "no locks");
    tool.signal(Signal::SIGTERM);
    assert_eq!(tool.ended().await.code(), Some(0));
}

#[tokio::test]
async fn it_ends_with_its_reader_and_with_the_bus() {
    let fixture = Fixture::builder().start().await;
    let mut gone = watch(&fixture, &["owners"]);
    let mut lost = watch(&fixture, &["-q", "waiting"]);
    assert_eq!(gone.line().await, "no owners");
    assert_eq!(lost.line().await, "no requests wait");
    gone.output = None;
    assert_eq!(gone.ended().await.code(), Some(0));
    fixture.bus().stop();
    assert_eq!(lost.line().await, "");
    assert!(lost.line().await.contains("the connection to the system bus is lost"));
    assert_eq!(lost.ended().await.code(), Some(69));
}

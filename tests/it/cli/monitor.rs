//! `monitor --json`, as a program reads it.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Tool, str};
use crate::dbus_client::{TestVm, exclusive, lock, shared};
use crate::fixture::Fixture;
use crate::methods::none;

/// Starts it; it listens when this returns.
async fn monitor(fixture: &Fixture) -> Tool {
    let mut command = fixture.command("sh");
    let program = crate::fixture::program("vmlockctl");
    command.args(["-c", "exec \"$@\" 2>&1", "sh", str(&program), "--json", "monitor"]);
    let mut tool = Tool::start(fixture, command);
    assert!(tool.line().await.contains("listening"));
    tool
}

/// The next event. Its time is told twice, and is no part of what comes back.
async fn next(tool: &mut Tool) -> Value {
    let line = tool.line().await;
    let mut told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let object = told.as_object_mut().unwrap();
    let (text, usec) = (object.remove("time").unwrap(), object.remove("time-usec").unwrap());
    let text: jiff::Timestamp = text.as_str().unwrap().parse().unwrap();
    assert_eq!(text.as_microsecond(), usec.as_i64().unwrap());
    told
}

#[tokio::test]
async fn each_event_is_an_object_with_all_that_is_known() {
    let fixture = Fixture::builder().start().await;
    let (image, bus) = (fixture.raw_of(0, "a\nb"), fixture.connection().await);
    let mut monitor = monitor(&fixture).await;

    let web1 = TestVm::open(&bus, "web1").await;
    let uuid = web1.owner.uuid().await.unwrap();
    // Returns the fields of an event with its owner.
    let told = |event: &str, more: Value| {
        let mut told = json!({
            "event": event, "owner": web1.path().as_str(), "uuid": uuid, "name": "web1", "uid": 0,
        });
        told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        told
    };
    assert_eq!(next(&mut monitor).await, told("OwnerOpened", json!({ "frontend": "dbus" })));
    let locks = web1.acquire(&[exclusive(&image)]).await.unwrap();
    let on = |more: Value| {
        let mut on = json!({ "lock": locks[0].as_str(), "resource": str(&image) });
        on.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        on
    };
    let acquired = told("LockAcquired", on(json!({ "mode": "exclusive" })));
    assert_eq!(next(&mut monitor).await, acquired);

    let web2 = TestVm::open(&bus, "web2").await;
    assert_eq!(next(&mut monitor).await["name"], "web2");
    web2.acquire(&[shared(&image)]).await.unwrap_err();
    let contended = json!({
        "event": "LockContended", "resource": str(&image), "uid": 0, "name": "web2",
        "owner": web2.path().as_str(), "uuid": web2.owner.uuid().await.unwrap(),
        "holders": [web1.path().as_str()], "holder-uuids": [uuid], "holder-names": ["web1"],
    });
    assert_eq!(next(&mut monitor).await, contended);

    lock(&bus, &locks[0]).await.convert("shared", none()).await.unwrap();
    let converted = told("Converted", on(json!({ "mode": "shared" })));
    assert_eq!(next(&mut monitor).await, converted);

    let released = told("LockReleased", on(json!({ "mode": "shared", "reason": "owner-gone" })));
    let ended = told("OwnerEnded", json!({}));
    drop(web1);
    assert_eq!(next(&mut monitor).await, released);
    assert_eq!(next(&mut monitor).await, ended);

    fixture.daemon().terminate().await;
    assert!(monitor.line().await.contains("is not running on the system bus; waiting for it"));
    assert_eq!(next(&mut monitor).await, json!({ "event": "ServiceLeft" }));
    fixture.daemon().start_again().await;
    assert!(monitor.line().await.contains("is running on the system bus again"));
    assert_eq!(next(&mut monitor).await, json!({ "event": "ServiceCame" }));
    monitor.signal(Signal::SIGINT);
    assert_eq!(monitor.ended().await.code(), Some(0));
}

#[tokio::test]
async fn monitor_ends_when_its_output_is_closed() {
    let fixture = Fixture::builder().start().await;
    let mut monitor = monitor(&fixture).await;
    // Nothing happens that it could print.
    monitor.output = None;
    assert_eq!(monitor.ended().await.code(), Some(0));
}

#[tokio::test]
async fn monitor_ends_with_the_bus() {
    let fixture = Fixture::builder().start().await;
    let mut monitor = monitor(&fixture).await;
    fixture.bus().stop();
    // It may have been asking who is there just then.
    while !monitor.line().await.contains("the connection to the system bus is lost") {}
    assert_eq!(monitor.ended().await.code(), Some(69));
}

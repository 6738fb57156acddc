//! `status`: what is known of the service, on one screen.

use std::fs;

use super::{fails, json, start_advice, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive, manager};
use crate::fixture::{Fixture, program};
use crate::nspawn::{Host, Tree};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The values of these keys are as expected.
#[track_caller]
fn is_told(status: &serde_json::Value, expected: &serde_json::Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&status[key], value, "{key} in {status:#}");
    }
}

/// The value on the line with this name.
#[track_caller]
fn line<'t>(text: &'t str, name: &str) -> &'t str {
    let value = |line: &'t str| line.strip_prefix(name)?.strip_prefix(':');
    text.lines().find_map(value).unwrap_or_else(|| panic!("no {name} in {text}")).trim()
}

#[tokio::test]
async fn a_service_that_runs_is_described() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("virtlockd-sock");
    let fixture = Fixture::builder().arg("--virtlockd-socket").arg(str(&socket)).start().await;
    let bus = fixture.connection().await;
    let (disk, web1) = (fixture.raw_of(0, "a"), TestVm::open(&bus, "web1").await);
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let status = json(&fixture, &["status"]).await;
    let expected = serde_json::json!({
        "running": true,
        "bus": "system",
        "private-socket": false,
        "version": VERSION,
        "vmlockctl-version": VERSION,
        "replaced-executable": null,
        // By this test.
        "started-by": "other",
        "pid": fixture.daemon().pid(),
        "owners": 1,
        "locks": 1,
        "lost": 0,
        "waiting": 0,
        "keeps-locks": false,
        "serves-libvirt": true,
        "libvirt-socket": str(&socket),
    });
    is_told(&status, &expected);
    assert_eq!(status["worst-finding"]["check"], "store", "{status:#}");
    let text = vmlockctl(&fixture, &["status"]).await.ok();
    let service = line(&text, "Service");
    assert_eq!(service, format!("vmlockd {VERSION} is running on the system bus"));
    assert_eq!((line(&text, "Locks"), line(&text, "Waiting")), ("1", "0"));
    assert!(line(&text, "Checks").starts_with("warning: "), "{text}");
}

#[tokio::test]
async fn a_stopped_service_is_reported_and_not_started() {
    let fixture = Fixture::builder().started_by_bus().start().await;
    let said = fails(&fixture, 69, &["status"]).await;
    assert!(said.contains("not running") && said.contains(start_advice()), "{said}");
    let ran = vmlockctl(&fixture, &["--json", "status"]).await;
    assert_eq!(ran.status.code(), Some(69), "{ran:#?}");
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told, serde_json::json!({ "running": false, "bus": "system" }));
    fixture.bus().watch().await.free().await;

    manager(&fixture.connection().await).await.version().await.unwrap();
    let status = json(&fixture, &["status"]).await;
    assert_eq!(status["started-by"], "bus", "{status:#}");
    assert_eq!(status["serves-libvirt"], false, "{status:#}");
}

#[tokio::test]
async fn a_replaced_executable_is_reported() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let (_service, installed) = super::reexec::start_copy(&fixture).await;
    assert!(json(&fixture, &["status"]).await["replaced-executable"].is_null());

    let new = fixture.dir().join("new");
    fs::copy(program("vmlockd"), &new).unwrap();
    fs::rename(&new, &installed).unwrap();
    let status = json(&fixture, &["status"]).await;
    assert_eq!(status["replaced-executable"], str(&installed), "{status:#}");
    let text = vmlockctl(&fixture, &["status"]).await.ok();
    assert!(text.contains("was replaced; 'vmlockctl reexec' updates the service"), "{text}");
}

/// A host with systemd.
mod host {
    use super::*;

    #[tokio::test]
    async fn the_unit_is_described_to_root_and_to_users() {
        let Some(host) = Host::boot(Tree::Own).await else { return };
        let ran = host.run(&["vmlockctl", "status"]).await;
        assert_eq!(ran.status.code(), Some(69), "{ran:#?}");
        assert!(ran.stderr.contains("the state of vmlockd.service is 'inactive'"), "{ran:#?}");
        let main = host.enable().await;
        let status = host.json(&["vmlockctl", "--json", "status"]).await;
        let expected = serde_json::json!({
            "private-socket": true,
            "started-by": "systemd",
            "unit-state": "active",
            "unit-file-state": "enabled",
            "pid": main.inside,
            "keeps-locks": true,
            "serves-libvirt": false,
        });
        is_told(&status, &expected);
        let text = host.run_as("games", &["vmlockctl", "--system", "status"]).await.ok();
        assert_eq!(line(&text, "Started"), "by systemd (vmlockd.service: active, enabled)");
        assert_eq!(line(&text, "libvirt"), "not served");
    }
}

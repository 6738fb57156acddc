//! Locks that are not as they should be, where a person sees them; and `doctor`, which says what
//! to do.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Tool, fails, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive, shared};
use crate::fixture::user::NOBODY;
use crate::fixture::{Damage, Fixture, ForeignHolder, LockType, StateImage, field};

/// Starts `monitor`; it listens when this returns.
async fn monitor(fixture: &Fixture, form: &str) -> Tool {
    let mut command = fixture.command("sh");
    let program = crate::fixture::program("vmlockctl");
    command.args(["-c", "exec \"$@\" 2>&1", "sh", str(&program), "monitor", form]);
    let mut tool = Tool::start(fixture, command);
    assert!(tool.line().await.contains("listening"));
    tool
}

/// The next line of these that has the word.
async fn line_with(tool: &mut Tool, word: &str) -> String {
    loop {
        let line = tool.line().await;
        if line.contains(word) {
            return line;
        }
    }
}

/// A machine that had two disks, of which a foreign holder has taken one while the service was away.
struct Scenario {
    fixture: Fixture,
    machine: TestVm,
    lost: PathBuf,
    kept: PathBuf,
    _foreign_holder: ForeignHolder,
}

impl Scenario {
    async fn set_up() -> Self {
        let fixture = Fixture::builder().start().await;
        let (lost, kept) = (fixture.image("lost.qcow2").await, fixture.image("kept.qcow2").await);
        let machine = TestVm::open(&fixture.connection().await, "web1").await;
        machine.acquire(&[exclusive(&lost), shared(&kept)]).await.unwrap();
        let mut monitor = monitor(&fixture, "--json").await;
        fixture.daemon().kill9().await;
        let foreign_holder = ForeignHolder::hold(&lost, LockType::Ofd, true).unwrap();
        fixture.daemon().start_again().await;
        // Both are looked at one after the other.
        for (event, number) in [("LockLost", 1), ("Verified", 2)] {
            let told: Value = serde_json::from_str(&line_with(&mut monitor, event).await).unwrap();
            assert_eq!(told["lock"], format!("/org/vmlockd1/lock/{number}"));
            assert_eq!(told["name"], "web1");
        }
        Self { fixture, machine, lost, kept, _foreign_holder: foreign_holder }
    }
}

/// The remarks on one thing.
fn on<'r>(remarks: &'r Value, check: &str) -> Vec<&'r Value> {
    remarks.as_array().unwrap().iter().filter(|remark| remark["check"] == check).collect()
}

/// Returns the JSON output of `doctor`, which exits with this code.
async fn doctor(fixture: &Fixture, code: i32) -> Value {
    let ran = vmlockctl(fixture, &["--json", "doctor"]).await;
    assert_eq!(ran.status.code(), Some(code), "{ran:#?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

#[tokio::test]
async fn a_lost_lock_is_marked_in_lists() {
    let Scenario { fixture, machine, lost, kept, _foreign_holder } = Scenario::set_up().await;
    let list = vmlockctl(&fixture, &["list"]).await.ok();
    let lines: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["LOCK", "MODE", "STATE", "RESOURCE"]);
    assert_eq!(lines[1][..5], ["1", "exclusive", "LOST", str(&lost), "web1"]);
    assert_eq!(lines[2][..4], ["2", "shared", str(&kept), "web1"]);
    let locks = super::json(&fixture, &["list"]).await;
    assert_eq!((&locks[0]["lost"], &locks[0]["verified"]), (&true.into(), &false.into()));
    assert_eq!((&locks[1]["lost"], &locks[1]["verified"]), (&false.into(), &true.into()));

    for what in ["1", str(&lost)] {
        let shown = vmlockctl(&fixture, &["show", what]).await.ok();
        let lost = |line: &str| line.starts_with("lost:") && line.contains("YES");
        assert!(shown.lines().any(lost), "{shown}");
    }
    assert_eq!(super::json(&fixture, &["show", "2"]).await[0]["lost"], false);
    // It conflicts nevertheless.
    fails(&fixture, 75, &["run", "--disk", str(&lost), "--", "true"]).await;

    let remarks = doctor(&fixture, 1).await;
    let [remark] = on(&remarks, "lock")[..] else { panic!("{remarks:#}") };
    assert_eq!((&remark["state"], &remark["about"]), (&"danger".into(), &locks[0]));
    let ran = vmlockctl(&fixture, &["doctor"]).await;
    let line = ran.stdout.lines().find(|line| line.starts_with("DANGER")).unwrap();
    let uuid = machine.owner.uuid().await.unwrap();
    for word in [str(&lost), "web1", &uuid, "user root", "since"] {
        assert!(line.contains(word), "no {word}: {line}");
    }
}

#[tokio::test]
async fn monitor_reports_locks_across_a_restart() {
    let fixture = Fixture::builder().start().await;
    let (a, b) = (fixture.image("a.qcow2").await, fixture.image("b.qcow2").await);
    let machine = TestVm::open(&fixture.connection().await, "web1").await;
    machine.acquire(&[exclusive(&a), exclusive(&b)]).await.unwrap();
    let mut monitor = monitor(&fixture, "--system").await;
    fixture.daemon().kill9().await;
    let foreign_holder = ForeignHolder::hold(&b, LockType::Ofd, true).unwrap();
    fixture.daemon().start_again().await;
    for rest in [
        format!("verified   VM \"web1\"  {}  lock 1", str(&a)),
        format!("LOST       VM \"web1\"  {}  taken  lock 2", str(&b)),
    ] {
        let word = rest.split(' ').next().unwrap();
        let line = line_with(&mut monitor, word).await;
        assert_eq!(line.splitn(3, ' ').nth(2).unwrap(), rest);
    }
    drop(foreign_holder);
    monitor.signal(Signal::SIGINT);
    assert_eq!(monitor.ended().await.code(), Some(0));
}

#[tokio::test]
async fn without_a_service_manager_doctor_warns() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let remarks = doctor(&fixture, 78).await;
    for (check, state) in [
        ("service", json!(["ok"])),
        ("version", json!(["ok"])),
        ("store", json!(["warning"])),
        ("stop", json!([])),
        ("polkit", json!(["note"])),
        ("locks", json!(["ok"])),
        ("owners", json!(["ok"])),
    ] {
        let states: Value =
            on(&remarks, check).iter().map(|remark| remark["state"].clone()).collect();
        assert_eq!(states, state, "{check}: {remarks:#}");
    }
    assert!(on(&remarks, "store")[0]["message"].as_str().unwrap().contains("no systemd"));

    // An owner without a VM is not a fault, but is listed; and any user may see it.
    vmlockctl(&fixture, &["lock", "--name", "backup", str(&image)]).await.ok();
    let ran = fixture.run_as(NOBODY, "vmlockctl", &["--system", "doctor"]).await;
    assert_eq!((ran.status.code(), ran.stderr.as_str()), (Some(78), ""));
    let about = |line: &&str| line.starts_with("note") && line.contains("VM \"backup\"");
    let line = ran.stdout.lines().find(about).unwrap();
    assert!(line.contains("vmlockctl unlock"), "{line}");
    assert!(ran.stdout.contains("vmlockd 0.") && !ran.stdout.contains("DANGER"), "{}", ran.stdout);
}

#[tokio::test]
async fn an_unverified_lock_is_reported_until_it_is_unlocked() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let machine = TestVm::open(&fixture.connection().await, "web1").await;
    machine.acquire(&[exclusive(&image)]).await.unwrap();
    fixture.daemon().kill9().await;
    let state = fixture.launch().runtime_dir.join("state");
    let mut image = StateImage::read(&state);
    let owner = image.of_kind("owner").pop().unwrap();
    assert_eq!(image.value(&owner, field::OWNER_NAME).unwrap(), b"web1");
    image.damage(&owner, &Damage::Other(field::OWNER_NAME, b"WEB1".to_vec()));
    image.write(&state);
    fixture.daemon().start_again().await;

    let remarks = doctor(&fixture, 1).await;
    let [remark] = on(&remarks, "owner")[..] else { panic!("{remarks:#}") };
    assert_eq!(
        (&remark["state"], &remark["about"]["name"]),
        (&"danger".into(), &"recovered".into())
    );
    let advice = remark["advice"].as_str().unwrap();
    let word = advice.split_once("'vmlockctl unlock ").unwrap().1.trim_end_matches('\'');
    vmlockctl(&fixture, &["unlock", word]).await.ok();
    doctor(&fixture, 78).await;
}

#[tokio::test]
async fn doctor_reports_a_stopped_service() {
    let fixture = Fixture::builder().without_daemon().start().await;
    for (scope, said) in [("--system", "vmlockd is not running"), ("--session", "cannot connect")] {
        let ran = vmlockctl(&fixture, &[scope, "doctor"]).await;
        assert_eq!(ran.status.code(), Some(69), "{ran:#?}");
        assert!(
            ran.stdout.starts_with("DANGER   service  ") && ran.stdout.contains(said),
            "{ran:#?}"
        );
    }
}

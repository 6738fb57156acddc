//! What is installed, on a host where systemd, a bus and polkit run it.

use std::fs;

use serde_json::Value;

use crate::host::{Host, Tree};
use crate::house::{Kind, Rival};

/// Users that every distribution has, with no rights of their own.
const ONE: &str = "games";
const OTHER: &str = "nobody";

async fn the_first_call_starts_the_service(tree: Tree) {
    let Some(host) = Host::boot(tree).await else { return };
    assert_eq!(host.property("ActiveState").await, "inactive");
    let version = ["org.vmlockd1", "/org/vmlockd1", "org.vmlockd1.Manager", "Version"];
    let line = [&["busctl", "get-property"][..], &version].concat();
    let said = host.run_as(ONE, &line).await.ok();
    assert_eq!(said, format!("s \"{}\"\n", env!("CARGO_PKG_VERSION")));
    // It is systemd's: in the unit's control group, as its main process.
    assert_eq!(host.property("ActiveState").await, "active");
    let main = host.main().await;
    assert_eq!(host.enable().await, main);
}

#[tokio::test]
async fn the_first_call_starts_the_service_here() {
    the_first_call_starts_the_service(Tree::Own).await;
}

#[tokio::test]
async fn the_first_call_starts_the_service_on_trixie() {
    the_first_call_starts_the_service(Tree::Release("trixie")).await;
}

#[tokio::test]
async fn polkit_decides_who_locks_by_name() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    let rule = format!(
        "polkit.addRule(function (action, subject) {{
            if (action.id === \"org.vmlockd1.acquire-by-name\" && subject.user === \"{ONE}\") {{
                return polkit.Result.YES;
            }}
        }});"
    );
    host.write("/etc/polkit-1/rules.d/50-test.rules", &rule);
    let image = host.image("a.img");
    let line = ["vmlockctl", "--system", "lock", image.to_str().unwrap()];
    let ran = host.run_as(OTHER, &line).await;
    assert_eq!(ran.status.code(), Some(77), "{ran:?}");
    Rival::try_once(host.at(&image), Kind::Posix, true).unwrap();
    host.run_as(ONE, &line).await.ok();
    Rival::try_once(host.at(&image), Kind::Posix, true).unwrap_err();
}

#[tokio::test]
async fn a_user_locks_what_he_may_open_and_is_not_asked() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    let image = host.image("a.img");
    let image = image.to_str().unwrap();
    let line = ["vmlockctl", "--system", "run", "--disk", image, "--", "true"];
    let ran = host.run_as(ONE, &line).await;
    assert_eq!(ran.status.code(), Some(77), "{ran:?}");
    host.run(&["chown", ONE, image]).await.ok();
    host.run_as(ONE, &line).await.ok();
    let ran = host.run_as(OTHER, &line).await;
    assert_eq!(ran.status.code(), Some(77), "{ran:?}");
}

/// What is tried in the service's place, and what becomes of it.
const TRIED: [(&str, &str); 8] = [
    ("touch /usr/probe", "Read-only file system"),
    ("touch /etc/probe", "Read-only file system"),
    ("touch /srv/images/probe", "done"),
    ("head -c 0 /srv/character", "Operation not permitted"),
    // There may be no such disk, but nobody is kept from it.
    ("head -c 0 /srv/block 2>&1 | grep permitted || true", "done"),
    ("unshare --mount true", "Operation not permitted"),
    ("chown games /srv/images/probe", "Operation not permitted"),
    ("test $(grep -c : /proc/net/dev) = 1", "done"),
];

async fn the_service_can_do_what_it_must_and_no_more(tree: Tree) {
    let Some(host) = Host::boot(tree).await else { return };
    // What it would open if it were let: the FUSE device, and a loop device.
    host.run(&["mknod", "/srv/character", "c", "10", "229"]).await.ok();
    host.run(&["mknod", "/srv/block", "b", "7", "0"]).await.ok();
    let tries = TRIED.map(|(command, _)| format!("({command}) 2>&1 && echo done || true\n"));
    host.write("/srv/probe", &tries.concat());
    let probe = "ExecStartPre=/bin/sh -c '/bin/sh /srv/probe >/run/vmlockd/probe'";
    host.drop_in("probe", &format!("[Service]\n{probe}\n")).await;
    let main = host.enable().await;

    let said = fs::read_to_string(host.at("/run/vmlockd/probe")).unwrap();
    assert_eq!(said.lines().count(), TRIED.len(), "{said}");
    for (line, (command, outcome)) in said.lines().zip(TRIED) {
        assert!(line.ends_with(outcome), "{command}: not '{outcome}', but '{line}'");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", main.outside)).unwrap();
    // CAP_DAC_OVERRIDE, CAP_KILL and CAP_SYS_PTRACE.
    let powers = 1_u64 << 1 | 1 << 5 | 1 << 19;
    for (key, value) in [
        ("CapBnd", format!("{powers:016x}")),
        ("CapEff", format!("{powers:016x}")),
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp", "2".to_owned()),
    ] {
        assert!(status.contains(&format!("{key}:\t{value}\n")), "not {key} {value}: {status}");
    }
}

#[tokio::test]
async fn the_service_can_do_what_it_must_and_no_more_here() {
    the_service_can_do_what_it_must_and_no_more(Tree::Own).await;
}

#[tokio::test]
async fn the_service_can_do_what_it_must_and_no_more_on_trixie() {
    the_service_can_do_what_it_must_and_no_more(Tree::Release("trixie")).await;
}

/// `vmlockctl doctor`: what it says of keeping locks, over a crash and over a stop.
async fn doctor(host: &Host, code: i32) -> [String; 2] {
    let ran = host.run_as(ONE, &["vmlockctl", "--system", "--json", "doctor"]).await;
    assert_eq!(ran.status.code(), Some(code), "{ran:#?}");
    let remarks: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    ["store", "stop"].map(|check| {
        let remark = remarks.iter().find(|remark| remark["check"] == check);
        let Some(remark) = remark else { return String::new() };
        let word = |key: &str| remark[key].as_str().unwrap().to_owned();
        format!("{}: {}", word("state"), word("message"))
    })
}

/// Whether locks outlive the service depends on systemd and on the unit.
async fn doctor_knows_the_unit(tree: Tree) {
    let Some(host) = Host::boot(tree).await else { return };
    let new = host.systemd() >= 254;
    // The call starts it, and nothing would keep it loaded.
    let [store, stop] = doctor(&host, 78).await;
    assert!(store.starts_with("ok:"), "{store}");
    let why = if new { "its unit is disabled" } else { "keeps nothing of what is stopped" };
    assert!(stop.starts_with("warning:") && stop.contains(why), "{stop}");
    host.enable().await;
    let [_, stop] = doctor(&host, if new { 0 } else { 78 }).await;
    assert_eq!(stop.starts_with("ok:"), new, "{stop}");

    host.systemctl(&["stop", "vmlockd"]).await;
    host.drop_in("store", "[Service]\nFileDescriptorStoreMax=0\n").await;
    host.enable().await;
    let [store, stop] = doctor(&host, 78).await;
    assert!(store.contains("FileDescriptorStoreMax=0"), "{store}");
    assert_eq!(stop, "");
}

#[tokio::test]
async fn doctor_knows_the_unit_here() {
    doctor_knows_the_unit(Tree::Own).await;
}

#[tokio::test]
async fn doctor_knows_the_unit_on_trixie() {
    doctor_knows_the_unit(Tree::Release("trixie")).await;
}

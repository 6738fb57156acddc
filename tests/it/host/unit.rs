//! The installed program on a host where systemd, a bus and polkit run it.

mod confinement;
mod inspection;
mod private_socket;

use serde_json::Value;

use crate::fixture::{ForeignHolder, LockType};
use crate::nspawn::{Host, Tree};

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
    ForeignHolder::try_once(host.at(&image), LockType::Posix, true).unwrap();
    host.run_as(ONE, &line).await.ok();
    ForeignHolder::try_once(host.at(&image), LockType::Posix, true).unwrap_err();
}

#[tokio::test]
async fn a_user_locks_a_readable_disk_without_a_password() {
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
    // It only reads, and starts nothing.
    assert_eq!(doctor(&host, 69).await, ["", ""]);
    let start =
        ["busctl", "call", "org.vmlockd1", "/org/vmlockd1", "org.freedesktop.DBus.Peer", "Ping"];
    host.run(&start).await.ok();
    // The call has started it, and nothing would keep it loaded.
    let [store, stop] = doctor(&host, 78).await;
    assert!(store.starts_with("ok:"), "{store}");
    let why =
        if new { "its unit is disabled" } else { "drops the descriptors of a stopped service" };
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

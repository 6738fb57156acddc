//! libvirt and callers over D-Bus meet on one lease.

use zbus::OwnedObjectPath;

use super::{Scenario, text};
use crate::dbus_client::TestVm;
use crate::fixture::rpc::{AUTOCREATE, Owner, Rpc, SHARED};
use crate::fixture::{Fixture, Process};
use crate::methods::none;
use crate::refused_requests::assert_refused;
use crate::snapshot::Listed;

async fn scenario() -> Scenario {
    let config = "virtlockd_socket = \"@DIR@/virtlockd-sock\"\nrelease_grace = 0\n";
    Scenario::within(Fixture::builder().config(config).start().await).await
}

/// A process that a machine of libvirt's may be.
fn process(scenario: &Scenario) -> Process {
    let mut command = std::process::Command::new("sleep");
    command.arg("infinity");
    Process::start("sleep", command, &scenario.fixture.dir().join("sleep.log"))
}

fn libvirtd(scenario: &Scenario, owner: &Owner) -> Rpc {
    let mut rpc = Rpc::connect(&scenario.fixture.dir().join("virtlockd-sock")).unwrap();
    rpc.register(owner).granted();
    rpc
}

#[tokio::test]
async fn both_frontends_exclude_each_other() {
    let scenario = scenario().await;
    let directory = text(&scenario.directory);
    let name = scenario.lease("50%25").await;
    let process = process(&scenario);
    let mut libvirt = libvirtd(&scenario, &Owner::new("web1", 1, process.pid()));
    let web2 = TestVm::open(&scenario.bus, "web2").await;

    // libvirt spells a key as it is.
    libvirt.acquire(directory, "50%", 0).granted();
    assert_eq!(Listed::by(&scenario.bus).await.on(&name).count(), 1);
    for mode in ["shared", "exclusive"] {
        let refused = web2.acquire(&[(&name, mode)]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "is locked exclusively by VM \"web1\"");
    }
    libvirt.release(directory, "50%", 0).granted();
    let locks = web2.acquire(&[(&name, "exclusive")]).await.unwrap();
    let refusal = libvirt.acquire(directory, "50%", SHARED).refused();
    let words = "resource busy: Lockspace resource '50%' is locked exclusively by VM \"web2\"";
    assert!(refusal.code == 87 && refusal.message.starts_with(words), "{refusal:?}");
    web2.release(&locks).await.unwrap();

    let shared = web2.acquire(&[(&name, "shared")]).await.unwrap();
    libvirt.acquire(directory, "50%", SHARED).granted();
    assert_eq!(Listed::by(&scenario.bus).await.on(&name).count(), 2);
    web2.release(&shared).await.unwrap();
    libvirt.release(directory, "50%", 0).granted();
}

#[tokio::test]
async fn both_frontends_share_a_lockspace() {
    let scenario = scenario().await;
    let process = process(&scenario);
    let mut libvirt = libvirtd(&scenario, &Owner::new("web1", 1, process.pid()));
    let other = scenario.fixture.dir().join("libvirts");
    libvirt.create_lockspace(text(&other)).granted();
    libvirt.create_lockspace(text(&scenario.directory)).granted();
    let named = |path: OwnedObjectPath| path.as_str().rsplit('/').next().unwrap().to_owned();
    for (path, name) in [(&scenario.directory, "lease_1"), (&other, "lease_2")] {
        let path = scenario.manager.create_lockspace(text(path), none()).await.unwrap();
        assert_eq!(named(path), name);
    }
    // A file that libvirt creates with a lock is removed with it, and is a lease meanwhile.
    libvirt.acquire(text(&other), "key", AUTOCREATE).granted();
    let name = format!("lease:{}/key", other.display());
    let web2 = TestVm::open(&scenario.bus, "web2").await;
    let refused = web2.acquire(&[(&name, "shared")]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "web1");
    let in_use = super::refused(scenario.manager.remove_lockspace(text(&other), none()).await);
    assert_refused(&in_use, "LockHeld", "is locked exclusively by VM \"web1\"");
    libvirt.release(text(&other), "key", 0).granted();
    assert!(!other.join("key").exists());
    scenario.manager.remove_lockspace(text(&other), none()).await.unwrap();
    let gone = libvirt.acquire(text(&other), "key", AUTOCREATE).refused();
    assert!(gone.message.contains("does not exist"), "{gone:?}");
    // And may be named again.
    libvirt.create_lockspace(text(&other)).granted();
    libvirt.acquire(text(&other), "key", AUTOCREATE).granted();
    libvirt.release(text(&other), "key", 0).granted();
}

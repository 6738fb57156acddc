//! libvirt and callers over D-Bus meet on one lease.

use zbus::OwnedObjectPath;

use super::{Scene, text};
use crate::house::rpc::{AUTOCREATE, Owner, Rpc, SHARED};
use crate::house::{House, Process};
use crate::listed::Listed;
use crate::machine::Machine;
use crate::methods::none;
use crate::untouched::assert_refused;

async fn scene() -> Scene {
    let config = "virtlockd_socket = \"@DIR@/virtlockd-sock\"\nrelease_grace = 0\n";
    Scene::within(House::builder().config(config).start().await).await
}

/// A process that a machine of libvirt's may be.
fn process(scene: &Scene) -> Process {
    let mut command = std::process::Command::new("sleep");
    command.arg("infinity");
    Process::start("sleep", command, &scene.house.dir().join("sleep.log"))
}

fn libvirtd(scene: &Scene, owner: &Owner) -> Rpc {
    let mut rpc = Rpc::connect(&scene.house.dir().join("virtlockd-sock")).unwrap();
    rpc.register(owner).granted();
    rpc
}

#[tokio::test]
async fn either_keeps_the_other_off() {
    let scene = scene().await;
    let directory = text(&scene.directory);
    let name = scene.lease("50%25").await;
    let process = process(&scene);
    let mut libvirt = libvirtd(&scene, &Owner::new("web1", 1, process.pid()));
    let web2 = Machine::open(&scene.bus, "web2").await;

    // libvirt spells a key as it is.
    libvirt.acquire(directory, "50%", 0).granted();
    assert_eq!(Listed::by(&scene.bus).await.on(&name).count(), 1);
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
    assert_eq!(Listed::by(&scene.bus).await.on(&name).count(), 2);
    web2.release(&shared).await.unwrap();
    libvirt.release(directory, "50%", 0).granted();
}

#[tokio::test]
async fn a_lockspace_is_the_same_whoever_names_it() {
    let scene = scene().await;
    let process = process(&scene);
    let mut libvirt = libvirtd(&scene, &Owner::new("web1", 1, process.pid()));
    let other = scene.house.dir().join("libvirts");
    libvirt.create_lockspace(text(&other)).granted();
    libvirt.create_lockspace(text(&scene.directory)).granted();
    let named = |path: OwnedObjectPath| path.as_str().rsplit('/').next().unwrap().to_owned();
    for (path, name) in [(&scene.directory, "lease_1"), (&other, "lease_2")] {
        let path = scene.manager.create_lockspace(text(path), none()).await.unwrap();
        assert_eq!(named(path), name);
    }
    // What libvirt makes with a lock goes with it, and is a lease meanwhile.
    libvirt.acquire(text(&other), "key", AUTOCREATE).granted();
    let name = format!("lease:{}/key", other.display());
    let web2 = Machine::open(&scene.bus, "web2").await;
    let refused = web2.acquire(&[(&name, "shared")]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "web1");
    let in_use = super::refused(scene.manager.remove_lockspace(text(&other), none()).await);
    assert_refused(&in_use, "LockHeld", "is locked exclusively by VM \"web1\"");
    libvirt.release(text(&other), "key", 0).granted();
    assert!(!other.join("key").exists());
    scene.manager.remove_lockspace(text(&other), none()).await.unwrap();
    let gone = libvirt.acquire(text(&other), "key", AUTOCREATE).refused();
    assert!(gone.message.contains("does not exist"), "{gone:?}");
    // And may be named again.
    libvirt.create_lockspace(text(&other)).granted();
    libvirt.acquire(text(&other), "key", AUTOCREATE).granted();
    libvirt.release(text(&other), "key", 0).granted();
}

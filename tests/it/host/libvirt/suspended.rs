//! Guests that are refused by their own locks, and guests that go back to virtlockd.

use std::path::Path;

use nix::sys::signal::Signal;

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::Guest;
use super::hypervisor::Hypervisor;

/// No descriptors are kept, and the service comes back only when it is told to.
const NO_STORE: &str = "[Service]\nFileDescriptorStoreMax=0\nRestart=no\n";
const UNITS: [&str; 2] = ["vmlockd-virtlockd.socket", "vmlockd.service"];

/// libvirt suspends a guest while no service is there to release its locks; the service acquires them
/// again when it comes back, and libvirt adopts them when the guest goes on.
#[tokio::test]
async fn a_guest_suspended_while_the_service_was_down_resumes() {
    let Some(hypervisor) = Hypervisor::boot(LockDaemon::Vmlockd).await else { return };
    let host = &hypervisor.host;
    host.drop_in("store", NO_STORE).await;
    host.systemctl(&["restart", "vmlockd.service"]).await;
    let disk = hypervisor.image("one.img");
    let (web1, web2) = (Guest::on("web1", &disk), Guest::on("web2", &disk));
    hypervisor.start(&web1).await;

    host.systemctl(&["stop", UNITS[0]]).await;
    host.main().await.signal(Signal::SIGKILL);
    hypervisor.freed(&[&disk]).await;
    hypervisor.virsh(&["suspend", "web1"]).await;
    host.systemctl(&["reset-failed", UNITS[1]]).await;
    host.systemctl(&["start", UNITS[0], UNITS[1]]).await;
    hypervisor.refuses_to_start(&web2, disk.to_str().unwrap(), &web1).await;
    hypervisor.virsh(&["resume", "web1"]).await;
    hypervisor.holds(&web1, &[(&disk, Byte::Exclusive)]).await;

    hypervisor.virsh(&["suspend", "web1"]).await;
    assert_eq!(hypervisor.byte(&disk), Byte::Free);
    hypervisor.virsh(&["resume", "web1"]).await;
    hypervisor.destroy(&web1, &[&disk]).await;
    hypervisor.wait_until_no_owners().await;
}

/// libvirt leaves the lock of the base image behind when it commits an image that is not the active
/// one. The next commit is refused by that lock, and the message says how to free it.
#[tokio::test]
async fn a_refusal_names_the_command_for_a_lock_that_libvirt_left() {
    let Some(hypervisor) = Hypervisor::boot(LockDaemon::Vmlockd).await else { return };
    let base = Path::new("/srv/base.qcow2");
    let image = ["qemu-img", "create", "-q", "-f", "qcow2", base.to_str().unwrap(), "1M"];
    hypervisor.host.run(&image).await.ok();
    let web1 = Guest::on("web1", base).in_qcow2();
    hypervisor.start(&web1).await;
    let overlay = |n: u32| base.with_file_name(format!("overlay{n}.qcow2"));
    let snapshot = async |n: u32| {
        let onto = format!("vda,file={}", overlay(n).display());
        let line = ["snapshot-create-as", "web1", "--disk-only", "--no-metadata", "--diskspec"];
        hypervisor.virsh(&[&line[..], &[&onto]].concat()).await;
    };
    let commit = async |n: u32| {
        let top = overlay(n);
        let line = ["blockcommit", "web1", "vda", "--wait", "--base", base.to_str().unwrap()];
        hypervisor.try_virsh(&[&line[..], &["--top", top.to_str().unwrap()]].concat()).await
    };
    snapshot(1).await;
    snapshot(2).await;
    commit(1).await.ok();
    if hypervisor.byte(base) == Byte::Free {
        // This libvirt leaves nothing behind.
        return;
    }
    snapshot(3).await;
    let refused = commit(2).await;
    let said = &refused.stderr;
    assert!(!refused.status.success() && said.contains("this VM itself holds it"), "{refused:?}");
    let command = said.split('\'').find_map(|part| part.strip_prefix("vmlockctl ")).unwrap();
    let words: Vec<&str> = ["vmlockctl"].into_iter().chain(command.split(' ')).collect();
    hypervisor.host.run(&words).await.ok();
    commit(2).await.ok();
    hypervisor.virsh(&["destroy", "web1"]).await;
    hypervisor.freed(&[base, &overlay(3)]).await;
}

/// A guest that was started under the service has no connection to virtlockd: its end frees nothing
/// there, unless libvirt releases its locks before. vmlockd(8) says so under "Going back".
#[tokio::test]
async fn a_guest_that_goes_back_to_virtlockd_is_suspended_before_its_end() {
    let Some(mut hypervisor) = Hypervisor::boot(LockDaemon::Vmlockd).await else { return };
    let [one, two] = ["one.img", "two.img"].map(|name| hypervisor.image(name));
    let (web1, web2) = (Guest::on("web1", &one), Guest::on("web2", &two));
    for guest in [&web1, &web2] {
        hypervisor.start(guest).await;
        hypervisor.virsh(&["suspend", &guest.name]).await;
    }
    hypervisor.daemon = LockDaemon::Virtlockd;
    hypervisor.daemon.go_back(&hypervisor.host).await;
    for (guest, disk) in [(&web1, &one), (&web2, &two)] {
        hypervisor.virsh(&["resume", &guest.name]).await;
        assert_eq!(hypervisor.byte(disk), Byte::Exclusive);
    }
    hypervisor.virsh(&["suspend", "web1"]).await;
    hypervisor.destroy(&web1, &[&one]).await;

    let doctor = async || hypervisor.host.run(&["vmlockctl", "doctor"]).await.stdout;
    let words = format!("holds a lock on {}, which no other process has open", two.display());
    let said = doctor().await;
    assert!(!said.contains(&words), "{said}");
    hypervisor.virsh(&["destroy", "web2"]).await;
    assert_eq!(hypervisor.byte(&two), Byte::Exclusive);
    let said = doctor().await;
    assert!(said.contains(&words) && said.contains("'Going back'"), "{said}");
    hypervisor.host.systemctl(&["restart", "virtlockd.service"]).await;
    hypervisor.freed(&[&two]).await;
}

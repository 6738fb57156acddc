//! From virtlockd to the service, and how libvirt is told to lock at all.

use std::fs;

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::Guest;
use super::hypervisor::Hypervisor;
use crate::fixture::LockProber;
use crate::nspawn::skip;

/// While guests run: paused ones have no locks, and so none that could be missing.
#[tokio::test]
async fn a_running_guest_moves_over() {
    let Some(mut hypervisor) = Hypervisor::boot(LockDaemon::Virtlockd).await else { return };
    let disk = hypervisor.image("one.img");
    let (web1, web2) = (Guest::on("web1", &disk), Guest::on("web2", &disk));
    hypervisor.start(&web1).await;
    let pid = hypervisor.pid(&web1);
    // The service runs already, for others; they lose nothing.
    hypervisor.host.enable().await;
    let other = hypervisor.image("other.img");
    let line = ["vmlockctl", "lock", other.to_str().unwrap()];
    hypervisor.host.run(&line).await.ok();
    let lock_prober = LockProber::at(&[hypervisor.host.at(&other)], &hypervisor.host.log());

    hypervisor.virsh(&["suspend", "web1"]).await;
    hypervisor.daemon = LockDaemon::Vmlockd;
    hypervisor.daemon.take_over(&hypervisor.host).await;
    hypervisor.virsh(&["resume", "web1"]).await;
    lock_prober.stop().were_refused();
    hypervisor.host.run(&["vmlockctl", "unlock", other.to_str().unwrap()]).await.ok();

    assert_eq!(hypervisor.pid(&web1), pid);
    hypervisor.holds(&web1, &[(&disk, Byte::Exclusive)]).await;
    hypervisor.refuses_to_start(&web2, disk.to_str().unwrap(), &web1).await;
    // It has no connection to the service; its process is watched.
    hypervisor.destroy(&web1, &[&disk]).await;
    hypervisor.start(&web2).await;
    hypervisor.destroy(&web2, &[&disk]).await;
    hypervisor.wait_until_no_owners().await;

    // The requirements of libvirt's own units are met, and virtlockd does not run.
    let state = ["show", "--property=ActiveState", "--value"];
    for (unit, wanted) in [
        ("libvirtd.service", "active"),
        ("vmlockd-virtlockd.socket", "active"),
        ("virtlockd.socket", "active"),
        ("virtlockd.service", "inactive"),
    ] {
        let said = hypervisor.host.systemctl(&[&state[..], &[unit]].concat()).await;
        assert_eq!(said.trim(), wanted, "{unit}");
    }
}

/// Runs the lines of libvirt's documentation unchanged, with the installed files.
async fn documented_lines_work(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot_unlocked(daemon).await else { return };
    let host = &hypervisor.host;
    if !host.at("/usr/bin/augtool").exists() {
        skip::<()>("augtool is not installed here");
        return;
    }
    let directory = "/var/lib/libvirt/lockd/files";
    // The second as in `QEMU_CONF`.
    for (key, value) in [("lock_manager", "lockd"), ("stdio_handler", "file")] {
        let key = format!("/files/etc/libvirt/qemu.conf/{key}");
        host.run(&["augtool", "-s", "set", &key, value]).await.ok();
    }
    let setting = "/files/etc/libvirt/qemu-lockd.conf/file_lockspace_dir";
    host.run(&["augtool", "-s", "set", setting, directory]).await.ok();
    let file = fs::read_to_string(host.at("/etc/libvirt/qemu-lockd.conf")).unwrap();
    assert!(file.contains(&format!("\nfile_lockspace_dir = \"{directory}\"\n")), "{file}");
    host.run(&["mkdir", "-p", directory]).await.ok();
    daemon.take_over(host).await;
    host.systemctl(&["start", "libvirtd.service"]).await;

    let disk = hypervisor.image("one.img");
    let (web1, web2) = (Guest::on("web1", &disk), Guest::on("web2", &disk));
    hypervisor.start(&web1).await;
    let mut files = fs::read_dir(host.at(directory)).unwrap();
    let file = files.next().expect("a lock file").unwrap();
    assert_eq!(Byte::of(&file.path()), Byte::Exclusive);
    hypervisor.refuses_to_start(&web2, file.file_name().to_str().unwrap(), &web1).await;
    hypervisor.virsh(&["destroy", "web1"]).await;
    Byte::freed(&file.path()).await;
}

#[tokio::test]
async fn documented_lines_work_with_virtlockd() {
    documented_lines_work(LockDaemon::Virtlockd).await;
}

#[tokio::test]
async fn documented_lines_work_with_the_service() {
    documented_lines_work(LockDaemon::Vmlockd).await;
}

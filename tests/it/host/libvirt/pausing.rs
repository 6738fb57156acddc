//! libvirt pauses a guest for a purpose of its own, while another VM waits for its disk.

use std::path::Path;

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::Guest;
use super::hypervisor::Hypervisor;
use crate::fixture::Tool;
use crate::wait::until_waiting;

/// A VM that waits for a disk, and says "go" once it has it; returns once it waits.
async fn waiter(hypervisor: &Hypervisor, disk: &Path, then: &str) -> Tool {
    let line = ["vmlockctl", "run", "--wait", "--name", "backup", "--disk", disk.to_str().unwrap()];
    let command = format!("echo go; {then}");
    let tool = hypervisor.host.spawn(&[&line[..], &["--", "sh", "-c", &command]].concat());
    until_waiting(&hypervisor.host.bus().await, 1).await;
    tool
}

/// A guest whose image can hold snapshots.
async fn start_with_snapshots(hypervisor: &Hypervisor, disk: &Path) -> Guest {
    let image = ["qemu-img", "create", "-q", "-f", "qcow2", disk.to_str().unwrap(), "1M"];
    hypervisor.host.run(&image).await.ok();
    let web1 = Guest::on("web1", disk).in_qcow2();
    hypervisor.start(&web1).await;
    web1
}

/// An internal snapshot and a dump: the guest is paused, its locks are released, and acquired again
/// when it goes on.
#[tokio::test]
async fn a_guest_keeps_its_disk_while_libvirt_pauses_it() {
    let Some(hypervisor) = Hypervisor::boot(LockDaemon::Vmlockd).await else { return };
    hypervisor.release_grace(600).await;
    let disk = Path::new("/srv/one.qcow2");
    let web1 = start_with_snapshots(&hypervisor, disk).await;
    let mut backup = waiter(&hypervisor, disk, "exit").await;
    for line in [
        &["snapshot-create-as", "web1", "first"][..],
        &["dump", "web1", "/srv/web1.core"],
        &["snapshot-create-as", "web1", "second"],
    ] {
        hypervisor.virsh(line).await;
        assert_eq!(hypervisor.virsh(&["domstate", "web1"]).await.trim(), "running", "{line:?}");
        hypervisor.holds(&web1, &[(disk, Byte::Exclusive)]).await;
    }
    until_waiting(&hypervisor.host.bus().await, 1).await;
    hypervisor.virsh(&["destroy", "web1"]).await;
    assert_eq!(backup.line().await, "go");
    assert!(backup.ended().await.success());
}

/// Without a reservation the waiter gets the disk in between, and the guest stays paused.
#[tokio::test]
async fn a_guest_loses_its_disk_where_nothing_is_reserved() {
    let Some(hypervisor) = Hypervisor::boot(LockDaemon::Vmlockd).await else { return };
    hypervisor.release_grace(0).await;
    let disk = Path::new("/srv/one.qcow2");
    start_with_snapshots(&hypervisor, disk).await;
    let mut backup = waiter(&hypervisor, disk, "sleep infinity").await;
    let ran = hypervisor.try_virsh(&["snapshot-create-as", "web1", "first"]).await;
    assert_eq!(hypervisor.virsh(&["domstate", "web1"]).await.trim(), "paused", "{ran:?}");
    assert_eq!(backup.line().await, "go");
    hypervisor.virsh(&["destroy", "web1"]).await;
}

/// `virsh suspend` gives the disk away, once the grace period is over.
#[tokio::test]
async fn a_suspended_guest_has_its_disk_no_more_than_the_grace_period() {
    let Some(hypervisor) = Hypervisor::boot(LockDaemon::Vmlockd).await else { return };
    let disk = hypervisor.image("one.img");
    let (web1, web2) = (Guest::on("web1", &disk), Guest::on("web2", &disk));
    hypervisor.start(&web1).await;
    hypervisor.virsh(&["suspend", "web1"]).await;
    assert_eq!(hypervisor.byte(&disk), Byte::Free);
    hypervisor.cannot_start(&web2, "is reserved for VM \"web1\"").await;
    hypervisor.virsh(&["resume", "web1"]).await;
    hypervisor.holds(&web1, &[(&disk, Byte::Exclusive)]).await;

    hypervisor.release_grace(1).await;
    let mut backup = waiter(&hypervisor, &disk, "exit").await;
    hypervisor.virsh(&["suspend", "web1"]).await;
    assert_eq!(backup.line().await, "go");
    assert!(backup.ended().await.success());
    hypervisor.virsh(&["resume", "web1"]).await;
    hypervisor.holds(&web1, &[(&disk, Byte::Exclusive)]).await;
    hypervisor.destroy(&web1, &[&disk]).await;
    hypervisor.wait_until_no_owners().await;
}

/// `virsh snapshot-revert` ends QEMU and starts it again. Nothing is reserved then: the waiter gets the
/// disk in between, libvirt says who has it, and the guest is off.
#[tokio::test]
async fn a_guest_that_is_reverted_is_another_process() {
    let Some(hypervisor) = Hypervisor::boot(LockDaemon::Vmlockd).await else { return };
    hypervisor.release_grace(600).await;
    let disk = Path::new("/srv/one.qcow2");
    let web1 = start_with_snapshots(&hypervisor, disk).await;
    hypervisor.virsh(&["snapshot-create-as", "web1", "first"]).await;
    let before = hypervisor.pid(&web1);
    hypervisor.virsh(&["snapshot-revert", "web1", "first"]).await;
    assert_ne!(hypervisor.pid(&web1), before);
    hypervisor.holds(&web1, &[(disk, Byte::Exclusive)]).await;

    let mut backup = waiter(&hypervisor, disk, "sleep infinity").await;
    let ran = hypervisor.try_virsh(&["snapshot-revert", "web1", "first"]).await;
    assert_eq!(backup.line().await, "go");
    assert!(!ran.status.success() && ran.stderr.contains("VM \"backup\""), "{ran:?}");
}

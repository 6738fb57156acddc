//! Disks that several guests may have.

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::{Guest, Use};
use super::hypervisor::Hypervisor;

pub(super) async fn guests_share_what_all_call_shareable(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let disk = hypervisor.image("shared.img");
    let resource = disk.to_str().unwrap();
    let member = |name: &str| Guest::new(name).with(&disk, Use::Shareable);
    let [web1, web2] = ["web1", "web2"].map(member);
    let alone = Guest::on("web3", &disk);

    // In either order of their ends.
    for (first, second) in [(&web1, &web2), (&web2, &web1)] {
        hypervisor.start(first).await;
        hypervisor.holds(first, &[(&disk, Byte::Shared)]).await;
        hypervisor.start(second).await;
        for guest in [first, second] {
            hypervisor.holds(guest, &[(&disk, Byte::Shared)]).await;
        }
        hypervisor.virsh(&["destroy", &first.name]).await;
        hypervisor.refuses_to_start(&alone, resource, second).await;
        hypervisor.holds(second, &[(&disk, Byte::Shared)]).await;
        hypervisor.destroy(second, &[&disk]).await;
    }
    hypervisor.start(&alone).await;
    hypervisor.holds(&alone, &[(&disk, Byte::Exclusive)]).await;
    hypervisor.refuses_to_start(&web1, resource, &alone).await;
    hypervisor.destroy(&alone, &[&disk]).await;
    hypervisor.wait_until_no_owners().await;
}

/// libvirt does not even ask for a lock on what a guest only reads.
pub(super) async fn disks_that_are_only_read_are_not_locked(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let (own, read) = (hypervisor.image("own.img"), hypervisor.image("read.img"));
    let reader = Guest::on("web1", &own).with(&read, Use::ReadOnly);
    let writer = Guest::on("web2", &read);
    hypervisor.start(&reader).await;
    hypervisor.holds(&reader, &[(&own, Byte::Exclusive)]).await;
    assert_eq!(hypervisor.byte(&read), Byte::Free);
    hypervisor.start(&writer).await;
    hypervisor.holds(&writer, &[(&read, Byte::Exclusive)]).await;
    hypervisor.destroy(&reader, &[&own]).await;
    hypervisor.holds(&writer, &[(&read, Byte::Exclusive)]).await;
    hypervisor.destroy(&writer, &[&read]).await;
    hypervisor.wait_until_no_owners().await;
}

//! Operations on running guests.

use std::path::Path;

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::Guest;
use super::hypervisor::Hypervisor;

/// Plugs a disk into a guest, and out of it.
pub(super) mod plug {
    use super::{Guest, Hypervisor, Path};
    use crate::fixture::CommandOutput;

    pub(in super::super) async fn disk_in(
        hypervisor: &Hypervisor,
        guest: &Guest,
        disk: &Path,
    ) -> CommandOutput {
        let line = ["attach-disk", &guest.name, disk.to_str().unwrap(), "sdx", "--live"];
        let how = ["--targetbus", "usb", "--driver", "qemu", "--subdriver", "raw"];
        hypervisor.try_virsh(&[&line[..], &how].concat()).await
    }

    pub(in super::super) async fn disk_out(hypervisor: &Hypervisor, guest: &Guest) {
        hypervisor.virsh(&["detach-disk", &guest.name, "sdx", "--live"]).await;
    }
}

pub(super) async fn a_disk_is_plugged_in_and_out(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let (own, hot) = (hypervisor.image("own.img"), hypervisor.image("hot.img"));
    let (web1, web2) = (Guest::on("web1", &own), Guest::on("web2", &hot));
    let resource = hot.to_str().unwrap();
    hypervisor.release_grace(0).await;

    hypervisor.start(&web1).await;
    plug::disk_in(&hypervisor, &web1, &hot).await.ok();
    hypervisor.holds(&web1, &[(&own, Byte::Exclusive), (&hot, Byte::Exclusive)]).await;
    hypervisor.refuses_to_start(&web2, resource, &web1).await;
    plug::disk_out(&hypervisor, &web1).await;
    hypervisor.holds(&web1, &[(&own, Byte::Exclusive)]).await;
    assert_eq!(hypervisor.byte(&hot), Byte::Free);

    hypervisor.start(&web2).await;
    let ran = plug::disk_in(&hypervisor, &web1, &hot).await;
    hypervisor.assert_refused(&ran, resource, &web2);
    hypervisor.holds(&web1, &[(&own, Byte::Exclusive)]).await;
    hypervisor.destroy(&web2, &[&hot]).await;
    // Hot-plugged disks are unlocked with the guest, too.
    plug::disk_in(&hypervisor, &web1, &hot).await.ok();
    hypervisor.destroy(&web1, &[&own, &hot]).await;
    hypervisor.wait_until_no_owners().await;
}

/// libvirt releases the locks of a guest that it pauses, and acquires them again when it resumes.
pub(super) async fn a_paused_guest_has_no_lock(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let disk = hypervisor.image("one.img");
    let (web1, web2) = (Guest::on("web1", &disk), Guest::on("web2", &disk));
    let resource = disk.to_str().unwrap();
    hypervisor.release_grace(0).await;

    hypervisor.start(&web1).await;
    hypervisor.virsh(&["suspend", "web1"]).await;
    assert_eq!(hypervisor.byte(&disk), Byte::Free);
    hypervisor.holds(&web1, &[]).await;
    hypervisor.virsh(&["resume", "web1"]).await;
    hypervisor.holds(&web1, &[(&disk, Byte::Exclusive)]).await;
    hypervisor.refuses_to_start(&web2, resource, &web1).await;

    hypervisor.virsh(&["suspend", "web1"]).await;
    hypervisor.start(&web2).await;
    let ran = hypervisor.try_virsh(&["resume", "web1"]).await;
    hypervisor.assert_refused(&ran, resource, &web2);
    hypervisor.holds(&web2, &[(&disk, Byte::Exclusive)]).await;
    // The end of one that is paused takes nothing from who has the disk.
    hypervisor.virsh(&["destroy", "web1"]).await;
    hypervisor.holds(&web2, &[(&disk, Byte::Exclusive)]).await;
    hypervisor.destroy(&web2, &[&disk]).await;
    hypervisor.wait_until_no_owners().await;
}

/// The lock is on what the guest writes: on the overlay after a snapshot, on the base again after
/// a commit.
pub(super) async fn locks_follow_snapshots(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let base = hypervisor.image("base.img");
    let overlay = base.with_extension("overlay");
    let (web1, web2) = (Guest::on("web1", &base), Guest::on("web2", &base));

    hypervisor.start(&web1).await;
    let onto = format!("vda,file={}", overlay.display());
    let line = ["snapshot-create-as", "web1", "--disk-only", "--no-metadata", "--diskspec", &onto];
    hypervisor.virsh(&line).await;
    hypervisor.holds(&web1, &[(&overlay, Byte::Exclusive)]).await;
    assert_eq!(hypervisor.byte(&base), Byte::Free);
    hypervisor.virsh(&["blockcommit", "web1", "vda", "--active", "--pivot"]).await;
    hypervisor.holds(&web1, &[(&base, Byte::Exclusive)]).await;
    assert_eq!(hypervisor.byte(&overlay), Byte::Free);
    hypervisor.refuses_to_start(&web2, base.to_str().unwrap(), &web1).await;
    hypervisor.destroy(&web1, &[&base]).await;
    hypervisor.wait_until_no_owners().await;
}

//! Guests that are started, and some that are not.

use std::path::Path;

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::{Guest, Use};
use super::hypervisor::Hypervisor;

pub(super) async fn a_disk_is_locked_for_one_guest(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let (one, two) = (hypervisor.image("one.img"), hypervisor.image("two.img"));
    let (web1, web2) = (Guest::on("web1", &one), Guest::on("web2", &one));
    let resource = one.to_str().unwrap();

    hypervisor.start(&web1).await;
    hypervisor.holds(&web1, &[(&one, Byte::Exclusive)]).await;
    hypervisor.refuses_to_start(&web2, resource, &web1).await;
    // A guest that is refused one disk keeps none of the others.
    let both = Guest::on("web3", &two).with(&one, Use::Own);
    hypervisor.refuses_to_start(&both, resource, &web1).await;
    hypervisor.freed(&[&two]).await;
    hypervisor.holds(&web1, &[(&one, Byte::Exclusive)]).await;

    hypervisor.destroy(&web1, &[&one]).await;
    hypervisor.start(&web2).await;
    hypervisor.holds(&web2, &[(&one, Byte::Exclusive)]).await;
    hypervisor.refuses_to_start(&web1, resource, &web2).await;
    hypervisor.destroy(&web2, &[&one]).await;
    hypervisor.wait_until_no_owners().await;
}

pub(super) async fn eight_disks_are_one_guests_or_none_is(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let disks: Vec<_> = (1..=8).map(|n| hypervisor.image(&format!("{n}.img"))).collect();
    let many = disks.iter().fold(Guest::new("many1"), |guest, disk| guest.with(disk, Use::Own));
    let all: Vec<&Path> = disks.iter().map(AsRef::as_ref).collect();
    let last = Guest::on("last2", all[7]);

    hypervisor.start(&many).await;
    let locks: Vec<_> = all.iter().map(|disk| (*disk, Byte::Exclusive)).collect();
    hypervisor.holds(&many, &locks).await;
    hypervisor.refuses_to_start(&last, all[7].to_str().unwrap(), &many).await;
    hypervisor.destroy(&many, &all).await;

    hypervisor.start(&last).await;
    hypervisor.refuses_to_start(&many, all[7].to_str().unwrap(), &last).await;
    hypervisor.freed(&all[..7]).await;
    hypervisor.destroy(&last, &all).await;
    hypervisor.wait_until_no_owners().await;
}

/// The end of one run may be seen after the beginning of the next: that is no reason to refuse.
pub(super) async fn a_guest_is_started_again_at_once(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let disk = hypervisor.image("one.img");
    let guest = Guest::on("web1", &disk);
    for _ in 0..20 {
        hypervisor.start(&guest).await;
        hypervisor.virsh(&["destroy", &guest.name]).await;
    }
    hypervisor.freed(&[&disk]).await;
    hypervisor.wait_until_no_owners().await;
}

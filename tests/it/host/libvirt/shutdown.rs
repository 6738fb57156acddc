//! The ends of guests, and of libvirt.

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::Guest;
use super::hypervisor::Hypervisor;

/// The lock daemon is not informed that a guest has crashed.
pub(super) async fn a_killed_guest_leaves_nothing(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let (one, two) = (hypervisor.image("one.img"), hypervisor.image("two.img"));
    let (web1, web2) = (Guest::on("web1", &one), Guest::on("web2", &two));
    hypervisor.start(&web1).await;
    hypervisor.start(&web2).await;
    let pid = hypervisor.pid(&web1).to_string();
    hypervisor.host.run(&["kill", "-KILL", &pid]).await.ok();
    hypervisor.freed(&[&one]).await;
    hypervisor.holds(&web2, &[(&two, Byte::Exclusive)]).await;

    let again = Guest::on("web3", &one);
    hypervisor.start(&again).await;
    hypervisor.holds(&again, &[(&one, Byte::Exclusive)]).await;
    hypervisor.destroy(&again, &[&one]).await;
    hypervisor.destroy(&web2, &[&two]).await;
    hypervisor.wait_until_no_owners().await;
}

/// libvirt can be stopped and killed while guests run; it finds them again.
pub(super) async fn guests_outlive_libvirt(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot(daemon).await else { return };
    let disk = hypervisor.image("one.img");
    let (web1, web2) = (Guest::on("web1", &disk), Guest::on("web2", &disk));
    let resource = disk.to_str().unwrap();
    hypervisor.start(&web1).await;
    let pid = hypervisor.pid(&web1);

    let ends: [&[&str]; 2] = [
        &["kill", "--kill-whom=main", "--signal=KILL", "libvirtd.service"],
        &["restart", "libvirtd.service"],
    ];
    for end in ends {
        hypervisor.host.systemctl(end).await;
        hypervisor.holds(&web1, &[(&disk, Byte::Exclusive)]).await;
        hypervisor.refuses_to_start(&web2, resource, &web1).await;
        assert_eq!(hypervisor.pid(&web1), pid);
        hypervisor.virsh(&["suspend", "web1"]).await;
        assert_eq!(hypervisor.byte(&disk), Byte::Free);
        hypervisor.virsh(&["resume", "web1"]).await;
        hypervisor.holds(&web1, &[(&disk, Byte::Exclusive)]).await;
    }
    hypervisor.destroy(&web1, &[&disk]).await;
    hypervisor.wait_until_no_owners().await;
}

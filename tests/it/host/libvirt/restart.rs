//! The service ends and comes back while guests run: with virtlockd their disks would be free.

use std::path::Path;

use nix::sys::signal::Signal;

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::{Guest, Use};
use super::hypervisor::Hypervisor;
use super::running::plug;
use crate::fixture::LockProber;
use crate::nspawn::Host;

/// Comes back soon, yet not at once: there is a time without any process.
const RESTART: &str = "[Service]\nRestartSec=100ms\n";

/// Kills the daemon and its successor, and restarts it.
async fn trouble(host: &Host) {
    let mut watch = host.watch().await;
    for _ in 0..2 {
        let before = host.main().await;
        before.signal(Signal::SIGKILL);
        host.successor(&mut watch, before).await;
    }
    host.systemctl(&["restart", "vmlockd.service"]).await;
}

#[tokio::test]
async fn locks_outlive_the_service() {
    let Some(hypervisor) = Hypervisor::boot(LockDaemon::Vmlockd).await else { return };
    hypervisor.host.drop_in("restart", RESTART).await;
    let [own, hot, both, paused] =
        ["own.img", "hot.img", "both.img", "paused.img"].map(|name| hypervisor.image(name));
    let web1 = Guest::on("web1", &own).with(&both, Use::Shareable);
    let web2 = Guest::on("web2", &paused).with(&both, Use::Shareable);
    let foreign_holder = Guest::on("web3", &own);

    hypervisor.start(&web1).await;
    plug::disk_in(&hypervisor, &web1, &hot).await.ok();
    hypervisor.start(&web2).await;
    hypervisor.virsh(&["suspend", "web2"]).await;
    let held: [(&Path, _); 3] =
        [(&own, Byte::Exclusive), (&hot, Byte::Exclusive), (&both, Byte::Shared)];
    hypervisor.holds(&web1, &held).await;
    let files = held.map(|(file, _)| hypervisor.host.at(file));
    let lock_prober = LockProber::at(&files, &hypervisor.host.log());

    trouble(&hypervisor.host).await;
    hypervisor.holds(&web1, &held).await;
    hypervisor.refuses_to_start(&foreign_holder, own.to_str().unwrap(), &web1).await;
    lock_prober.stop().were_refused();

    plug::disk_out(&hypervisor, &web1).await;
    hypervisor.holds(&web1, &[(&own, Byte::Exclusive), (&both, Byte::Shared)]).await;
    plug::disk_in(&hypervisor, &web1, &hot).await.ok();
    hypervisor.virsh(&["suspend", "web1"]).await;
    hypervisor.holds(&web1, &[]).await;
    assert_eq!(hypervisor.byte(&own), Byte::Free);
    hypervisor.virsh(&["resume", "web1"]).await;
    hypervisor.holds(&web1, &held).await;
    // One that was paused all the while can go on, and is found by its end.
    hypervisor.virsh(&["resume", "web2"]).await;
    let resumed: [(&Path, _); 2] = [(&paused, Byte::Exclusive), (&both, Byte::Shared)];
    hypervisor.holds(&web2, &resumed).await;
    hypervisor.destroy(&web2, &[&paused]).await;
    hypervisor.holds(&web1, &held).await;
    hypervisor.destroy(&web1, &[&own, &hot, &both]).await;
    hypervisor.start(&foreign_holder).await;
    hypervisor.destroy(&foreign_holder, &[&own]).await;
    hypervisor.wait_until_no_owners().await;
}

/// libvirt tells of a lockspace when it starts, and never again.
#[tokio::test]
async fn lock_files_outlive_the_service() {
    let Some(hypervisor) = Hypervisor::boot_hashed(LockDaemon::Vmlockd).await else { return };
    hypervisor.host.drop_in("restart", RESTART).await;
    let (one, two) = (hypervisor.image("one.img"), hypervisor.image("two.img"));
    let (file, second) = (hypervisor.lock_file(&one).await, hypervisor.lock_file(&two).await);
    let (web1, web2) = (Guest::on("web1", &one), Guest::on("web2", &two));
    let foreign_holder = Guest::on("web3", &one);
    hypervisor.start(&web1).await;
    let lock_prober = LockProber::at(&[hypervisor.host.at(&file)], &hypervisor.host.log());

    trouble(&hypervisor.host).await;
    hypervisor.holds(&web1, &[(&file, Byte::Exclusive)]).await;
    let name = file.file_name().unwrap().to_str().unwrap();
    hypervisor.refuses_to_start(&foreign_holder, name, &web1).await;
    lock_prober.stop().were_refused();
    hypervisor.start(&web2).await;
    hypervisor.holds(&web2, &[(&second, Byte::Exclusive)]).await;
    hypervisor.destroy(&web1, &[&file]).await;
    hypervisor.destroy(&web2, &[&second]).await;
    hypervisor.wait_until_no_owners().await;
}

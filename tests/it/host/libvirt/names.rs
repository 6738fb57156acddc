//! A disk under several names: virtlockd locks by name, and lets two guests write it.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::{Guest, Use};
use super::hypervisor::Hypervisor;
use super::running::plug;

#[tokio::test]
async fn a_disk_is_one_disk_under_all_its_names() {
    let Some(hypervisor) = Hypervisor::boot(LockDaemon::Vmlockd).await else { return };
    let disk = hypervisor.image("disk.img");
    let other = hypervisor.image("other.img");
    let [hard, soft] = ["hard.img", "soft.img"].map(|name| disk.with_file_name(name));
    std::fs::hard_link(hypervisor.host.at(&disk), hypervisor.host.at(&hard)).unwrap();
    symlink(&disk, hypervisor.host.at(&soft)).unwrap();
    let dotted = Path::new("/srv/./images/../images/disk.img");

    let web1 = Guest::on("web1", &disk);
    let exclusive = [(&*disk, Byte::Exclusive)];
    hypervisor.start(&web1).await;
    for name in [&hard, &soft, dotted] {
        let resource = name.to_str().unwrap();
        hypervisor.refuses_to_start(&Guest::on("web2", name), resource, &web1).await;
        // Its end has taken nothing away.
        hypervisor.holds(&web1, &exclusive).await;
    }
    // Nor is a lock for one alone made one for many.
    let sharer = Guest::new("web2").with(&hard, Use::Shareable);
    hypervisor.refuses_to_start(&sharer, hard.to_str().unwrap(), &web1).await;
    hypervisor.holds(&web1, &exclusive).await;
    let web3 = Guest::on("web3", &other);
    hypervisor.start(&web3).await;
    let ran = plug::disk_in(&hypervisor, &web3, &hard).await;
    hypervisor.assert_refused(&ran, hard.to_str().unwrap(), &web1);
    hypervisor.holds(&web1, &exclusive).await;
    hypervisor.destroy(&web1, &[&disk]).await;

    // And the other way round.
    let web2 = Guest::on("web2", &hard);
    hypervisor.start(&web2).await;
    hypervisor.refuses_to_start(&web1, disk.to_str().unwrap(), &web2).await;
    hypervisor.destroy(&web2, &[&disk]).await;
    hypervisor.destroy(&web3, &[&other]).await;
    hypervisor.wait_until_no_owners().await;
}

//! `file_lockspace_dir`: locks are on files of a directory, which hosts can share, by the names that
//! libvirt gives them.

use std::fs;
use std::path::{Path, PathBuf};

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::{Guest, Use};
use super::hypervisor::Hypervisor;

/// The directory.
pub(super) const LOCKSPACE: &str = "/srv/locks";

impl Hypervisor {
    /// Boots a host whose locks are on files of [`LOCKSPACE`].
    pub(super) async fn boot_hashed(daemon: LockDaemon) -> Option<Hypervisor> {
        let settings = format!("file_lockspace_dir = \"{LOCKSPACE}\"\n");
        let hypervisor = Self::boot_unlocked(daemon).await?;
        fs::create_dir(hypervisor.host.at(LOCKSPACE)).unwrap();
        hypervisor.start_libvirt(&settings).await;
        Some(hypervisor)
    }

    /// The lock file of a disk.
    pub(super) async fn lock_file(&self, disk: &Path) -> PathBuf {
        Path::new(LOCKSPACE).join(self.hashed(disk).await)
    }

    /// Returns the name that libvirt derives from the path of a disk.
    pub(super) async fn hashed(&self, disk: &Path) -> String {
        let sum = "printf %s \"$1\" | sha256sum";
        let line = ["sh", "-c", sum, "sh", disk.to_str().unwrap()];
        let said = self.host.run(&line).await.ok();
        said.split_whitespace().next().unwrap().to_owned()
    }

    fn lock_files(&self) -> usize {
        fs::read_dir(self.host.at(LOCKSPACE)).unwrap().count()
    }
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

pub(super) async fn lock_files_have_hashed_names(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot_hashed(daemon).await else { return };
    let (one, two) = (hypervisor.image("one.img"), hypervisor.image("two.img"));
    let (file, shared) = (hypervisor.lock_file(&one).await, hypervisor.lock_file(&two).await);
    let web1 = Guest::on("web1", &one).with(&two, Use::Shareable);
    let web2 = Guest::on("web2", &one);
    let web3 = Guest::new("web3").with(&two, Use::Shareable);

    hypervisor.start(&web1).await;
    hypervisor.start(&web3).await;
    hypervisor.holds(&web1, &[(&file, Byte::Exclusive), (&shared, Byte::Shared)]).await;
    hypervisor.holds(&web3, &[(&shared, Byte::Shared)]).await;
    assert_eq!(hypervisor.byte(&one), Byte::Free);
    hypervisor.refuses_to_start(&web2, name(&file), &web1).await;

    // An unheld lock leaves no file.
    hypervisor.virsh(&["suspend", "web1"]).await;
    assert!(!hypervisor.host.at(&file).exists());
    hypervisor.holds(&web3, &[(&shared, Byte::Shared)]).await;
    hypervisor.virsh(&["resume", "web1"]).await;
    hypervisor.holds(&web1, &[(&file, Byte::Exclusive), (&shared, Byte::Shared)]).await;
    hypervisor.destroy(&web1, &[&file]).await;
    hypervisor.destroy(&web3, &[&shared]).await;
    hypervisor.wait_until_no_owners().await;
    assert_eq!(hypervisor.lock_files(), 0);
}

/// A lease names a lockspace that the lock daemon has been told of, and that is only this
/// directory; its file has to be there, and stays.
pub(super) async fn a_lease_is_a_lock_file_with_a_name(daemon: LockDaemon) {
    let Some(hypervisor) = Hypervisor::boot_hashed(daemon).await else { return };
    let (one, two) = (hypervisor.image("one.img"), hypervisor.image("two.img"));
    let lockspace = Path::new(LOCKSPACE);
    let (own, lease) = (hypervisor.lock_file(&one).await, lockspace.join("disk-group"));
    let [web1, web2] = [("web1", &one), ("web2", &two)]
        .map(|(name, disk)| Guest::on(name, disk).with_lease(lockspace, "disk-group"));
    let elsewhere = Guest::new("web3").with_lease(Path::new("/srv/leases"), "disk-group");
    hypervisor.release_grace(0).await;

    hypervisor.cannot_start(&web1, "No such file or directory").await;
    hypervisor.freed(&[&own]).await;
    hypervisor.host.write(&lease, "");
    hypervisor.start(&web1).await;
    hypervisor.holds(&web1, &[(&own, Byte::Exclusive), (&lease, Byte::Exclusive)]).await;
    hypervisor.refuses_to_start(&web2, "disk-group", &web1).await;
    hypervisor.virsh(&["suspend", "web1"]).await;
    assert_eq!(hypervisor.byte(&lease), Byte::Free);
    hypervisor.start(&web2).await;
    let ran = hypervisor.try_virsh(&["resume", "web1"]).await;
    hypervisor.assert_refused(&ran, "disk-group", &web2);
    hypervisor.destroy(&web2, &[&lease]).await;
    hypervisor.virsh(&["resume", "web1"]).await;
    hypervisor.holds(&web1, &[(&own, Byte::Exclusive), (&lease, Byte::Exclusive)]).await;
    hypervisor.destroy(&web1, &[&lease, &own]).await;
    hypervisor.wait_until_no_owners().await;
    assert_eq!(hypervisor.lock_files(), 1);

    let unknown = "Lockspace for path /srv/leases does not exist";
    hypervisor.cannot_start(&elsewhere, unknown).await;
    hypervisor.wait_until_no_owners().await;
}

//! Two hosts that have a directory in common, one with virtlockd and one with the service: each
//! keeps the other's guests out.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::Guest;
use super::hypervisor::Hypervisor;
use crate::nspawn::SHARED;

/// The hosts.
struct Pair {
    /// With virtlockd, and with the service.
    hosts: [Hypervisor; 2],
    disk: PathBuf,
    _shared: TempDir,
}

impl Pair {
    async fn boot(direct: bool) -> Option<Pair> {
        let shared = tempfile::Builder::new().prefix("vmlockd-shared-").tempdir().unwrap();
        fs::set_permissions(shared.path(), Permissions::from_mode(0o755)).unwrap();
        let disk = Path::new(SHARED).join("disk.img");
        File::create(shared.path().join("disk.img")).unwrap().set_len(1 << 20).unwrap();
        fs::create_dir(shared.path().join("locks")).unwrap();
        let boot = async |daemon| {
            let hypervisor = Hypervisor::boot_sharing(daemon, shared.path()).await?;
            let hashed = format!("file_lockspace_dir = \"{SHARED}/locks\"\n");
            hypervisor.start_libvirt(if direct { "" } else { &hashed }).await;
            Some(hypervisor)
        };
        let (one, other) = (boot(LockDaemon::Virtlockd).await?, boot(LockDaemon::Vmlockd).await?);
        Some(Pair { hosts: [one, other], disk, _shared: shared })
    }
}

/// The host that locks the disk first excludes the guest of the other until its own guest ends.
/// `file` is the locked file, `resource` the name that libvirt uses.
async fn each_keeps_the_other_out(pair: &Pair, file: &Path, resource: &str) {
    let [one, other] = &pair.hosts;
    let (web1, web2) = (Guest::on("web1", &pair.disk), Guest::on("web2", &pair.disk));
    let refusal = format!("error: resource busy: Lockspace resource '{resource}' is locked");
    for (has, wants) in [(one, other), (other, one)] {
        has.start(&web1).await;
        assert_eq!(has.byte(file), Byte::Exclusive);
        wants.cannot_start(&web2, &refusal).await;
        assert_eq!(has.byte(file), Byte::Exclusive);
        has.virsh(&["suspend", "web1"]).await;
        wants.start(&web2).await;
        let ran = has.try_virsh(&["resume", "web1"]).await;
        assert!(!ran.status.success() && ran.stderr.contains(&refusal), "{ran:?}");
        wants.destroy(&web2, &[file]).await;
        has.virsh(&["resume", "web1"]).await;
        assert_eq!(has.byte(file), Byte::Exclusive);
        has.destroy(&web1, &[file]).await;
    }
    other.wait_until_no_owners().await;
}

#[tokio::test]
async fn hosts_keep_each_other_out() {
    let Some(pair) = Pair::boot(true).await else { return };
    each_keeps_the_other_out(&pair, &pair.disk, pair.disk.to_str().unwrap()).await;
}

#[tokio::test]
async fn hosts_keep_each_other_out_where_lock_files_are_hashed() {
    let Some(pair) = Pair::boot(false).await else { return };
    let name = pair.hosts[0].hashed(&pair.disk).await;
    let file = Path::new(SHARED).join("locks").join(&name);
    each_keeps_the_other_out(&pair, &file, &name).await;
}

//! A host on which libvirt runs guests.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::{EMULATOR, Guest};
use crate::fixture::CommandOutput;
use crate::nspawn::{Host, Tree, skip};

/// The required programs, in addition to those of a host.
const PROGRAMS: [&str; 4] = ["/usr/sbin/libvirtd", "/usr/sbin/virtlockd", "/usr/bin/virsh", QEMU];
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// The state of this host's own libvirt: a copy must not start or find its guests.
const REMEMBERED: [&str; 4] =
    ["/etc/libvirt/qemu", "/etc/libvirt/storage", "/var/lib/libvirt", "/run/libvirt"];

const GUESTS: &str = "/run/guests";

/// The configuration of libvirt. It reads the reason why a guest did not start from the log of the
/// guest. With virtlogd, the default, that may be read before it is written; a file is written at
/// once.
pub(super) const QEMU_CONF: &str = "lock_manager = \"lockd\"\nstdio_handler = \"file\"\n";

/// A host with libvirt, and a lock daemon.
pub(super) struct Hypervisor {
    pub(super) host: Host,
    pub(super) daemon: LockDaemon,
}

impl Hypervisor {
    /// Boots a host and starts libvirt. None if this machine can't, which has been said then.
    pub(super) async fn boot(daemon: LockDaemon) -> Option<Hypervisor> {
        let hypervisor = Self::boot_unlocked(daemon).await?;
        hypervisor.start_libvirt("").await;
        Some(hypervisor)
    }

    /// Boots a host where libvirt's configuration is as it was installed, and nothing is started.
    pub(super) async fn boot_unlocked(daemon: LockDaemon) -> Option<Hypervisor> {
        Self::boot_on(daemon, Box::pin(Host::boot(Tree::Own))).await
    }

    /// Boots one of several hosts that share a directory.
    pub(super) async fn boot_sharing(daemon: LockDaemon, directory: &Path) -> Option<Hypervisor> {
        Self::boot_on(daemon, Box::pin(Host::boot_sharing(Tree::Own, directory))).await
    }

    async fn boot_on(
        daemon: LockDaemon,
        host: impl Future<Output = Option<Host>>,
    ) -> Option<Hypervisor> {
        let missing = PROGRAMS.iter().find(|program| !Path::new(program).exists());
        if let Some(program) = missing {
            return skip(&format!("{program} is not installed here"));
        }
        let host = host.await?;
        host.run(&[&["rm", "-rf"][..], &REMEMBERED].concat()).await.ok();
        // On one host QEMU's lock on its image would refuse before a lock daemon is asked.
        let off = r#"'"driver":"file"'/'"driver":"file","locking":"off"'"#;
        host.write(EMULATOR, &format!("#!/bin/bash\nexec {QEMU} \"${{@/{off}}}\"\n"));
        let executable = Permissions::from_mode(0o755);
        fs::set_permissions(host.at(EMULATOR), executable).expect("the script is ours");
        Some(Hypervisor { host, daemon })
    }

    /// Starts libvirt, with settings of its lock driver, and before it the lock daemon.
    pub(super) async fn start_libvirt(&self, settings: &str) {
        self.host.write("/etc/libvirt/qemu.conf", QEMU_CONF);
        self.host.write("/etc/libvirt/qemu-lockd.conf", settings);
        self.daemon.take_over(&self.host).await;
        self.host.systemctl(&["start", "libvirtd.service"]).await;
    }

    /// Sets how long the service reserves what libvirt releases, in seconds. virtlockd reserves
    /// nothing.
    pub(super) async fn release_grace(&self, seconds: u32) {
        if self.daemon == LockDaemon::Vmlockd {
            self.host.configure(&format!("release_grace = {seconds}\n"));
            self.host.systemctl(&["reload", "vmlockd.service"]).await;
        }
    }

    /// Runs a command of libvirt's client.
    pub(super) async fn try_virsh(&self, words: &[&str]) -> CommandOutput {
        let line = ["virsh", "--quiet", "--connect", "qemu:///system"];
        self.host.run_outside_units(&[&line[..], words].concat()).await
    }

    /// Runs a command of libvirt's client that must succeed, and returns its output.
    pub(super) async fn virsh(&self, words: &[&str]) -> String {
        self.try_virsh(words).await.ok()
    }

    async fn create(&self, guest: &Guest) -> CommandOutput {
        let file = format!("{GUESTS}/{}.xml", guest.name);
        self.host.write(&file, &guest.xml());
        self.try_virsh(&["create", &file]).await
    }

    /// Starts a guest. It runs when this returns.
    pub(super) async fn start(&self, guest: &Guest) {
        self.create(guest).await.ok();
    }

    /// Ends a guest, and waits until these files are free.
    pub(super) async fn destroy(&self, guest: &Guest, files: &[&Path]) {
        self.virsh(&["destroy", &guest.name]).await;
        self.freed(files).await;
    }

    /// The number of a running guest's process, in the host.
    pub(super) fn pid(&self, guest: &Guest) -> u32 {
        let file = self.host.at(format!("/run/libvirt/qemu/{}.pid", guest.name));
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        text.trim().parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// A guest can't be started, since another holds this resource.
    pub(super) async fn refuses_to_start(&self, guest: &Guest, resource: &str, holder: &Guest) {
        let ran = self.create(guest).await;
        self.assert_refused(&ran, resource, holder);
    }

    /// A guest can't be started, and this is why.
    pub(super) async fn cannot_start(&self, guest: &Guest, why: &str) {
        let ran = self.create(guest).await;
        assert!(!ran.status.success() && ran.stderr.contains(why), "not '{why}', but {ran:?}");
    }

    /// libvirt has said what it says of a locked resource, and who the holder is if that is known.
    pub(super) fn assert_refused(&self, ran: &CommandOutput, resource: &str, holder: &Guest) {
        assert!(!ran.status.success(), "{ran:?}");
        let usual = format!("error: resource busy: Lockspace resource '{resource}' is locked");
        assert!(ran.stderr.contains(&usual), "not '{usual}', but {ran:?}");
        if self.daemon == LockDaemon::Vmlockd {
            let pid = format!("pid {}", self.pid(holder));
            for word in [&holder.name, &holder.uuid, &pid] {
                assert!(ran.stderr.contains(word), "not {word}, but {ran:?}");
            }
        }
    }

    /// A lock on a file of the host.
    pub(super) fn byte(&self, file: &Path) -> Byte {
        Byte::of(&self.host.at(file))
    }

    /// Waits until files of the host are free.
    pub(super) async fn freed(&self, files: &[&Path]) {
        for file in files {
            Byte::freed(&self.host.at(file)).await;
        }
    }

    /// A new image of the host's.
    pub(super) fn image(&self, name: &str) -> PathBuf {
        self.host.image(name)
    }
}

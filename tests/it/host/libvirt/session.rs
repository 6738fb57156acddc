//! libvirt of an ordinary user: a daemon of the user, which starts its lock daemon by itself. There
//! is neither a user's systemd nor a session bus.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use super::byte::Byte;
use super::daemon::LockDaemon;
use super::guest::Guest;
use super::hypervisor::{Hypervisor, QEMU_CONF};
use crate::fixture::user::{Account, GAMES};
use crate::fixture::{CommandOutput, within};
use crate::nspawn::Host;

const HOME: &str = "/srv/home";
/// The runtime directory, which a login creates.
const RUN: &str = "/run/user/5";
/// Where this libvirt looks for its lock daemon.
const PROGRAMS: &str = "/srv/programs";
const VIRTLOCKD: &str = "/srv/programs/virtlockd";

/// A user with its own libvirt.
struct Session {
    host: Host,
}

impl Session {
    async fn begin() -> Option<Session> {
        let Hypervisor { host, .. } = Hypervisor::boot_unlocked(LockDaemon::Vmlockd).await?;
        fs::create_dir(host.at(PROGRAMS)).unwrap();
        symlink("/usr/sbin/vmlockd", host.at(VIRTLOCKD)).unwrap();
        let settings = format!("{HOME}/.config/libvirt/qemu.conf");
        host.write(&settings, QEMU_CONF);
        let folders = [HOME, "/srv/home/.config", "/srv/home/.config/libvirt", RUN];
        for folder in folders.map(|folder| host.at(folder)) {
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
            set_owner(&folder);
        }
        let session = Session { host };
        let place = format!("VIRTLOCKD_PATH={PROGRAMS}");
        let libvirtd = of_the_user(&[&place, "/usr/sbin/libvirtd"]);
        let libvirtd: Vec<_> = libvirtd.iter().map(String::as_str).collect();
        session.host.start("libvirtd-of-a-user", "notify", &libvirtd).await;
        Some(session)
    }

    /// Runs a command of the user's libvirt, which is running.
    async fn virsh(&self, words: &[&str]) -> CommandOutput {
        let line = ["LIBVIRT_AUTOSTART=0", "virsh", "--quiet", "--connect", "qemu:///session"];
        let line = of_the_user(&[&line[..], words].concat());
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        self.host.run_outside_units(&line).await
    }

    async fn create(&self, guest: &Guest) -> CommandOutput {
        let file = format!("/srv/{}.xml", guest.name);
        self.host.write(&file, &guest.xml());
        self.virsh(&["create", &file]).await
    }

    /// A guest can't have this disk, and is told who has it.
    async fn refuses(&self, guest: &Guest, disk: &Path, holder: &Guest) {
        let said = self.create(guest).await.refused();
        let busy = format!("Lockspace resource '{}' is locked exclusively", disk.display());
        for word in [&busy, &holder.name, &holder.uuid, "user games"] {
            assert!(said.contains(word), "not {word}, but {said}");
        }
    }

    /// An image of the user's.
    fn image(&self, name: &str) -> PathBuf {
        let path = self.host.image(name);
        set_owner(&self.host.at(&path));
        path
    }

    fn byte(&self, disk: &Path) -> Byte {
        Byte::of(&self.host.at(disk))
    }

    /// Returns the process ID of the user's lock daemon, or of the last one, on the host.
    fn lock_daemon(&self) -> String {
        let noted = fs::read_to_string(self.host.at(format!("{RUN}/vmlockd/lock"))).unwrap();
        noted.trim().to_owned()
    }

    fn command_line(&self, process: &str) -> String {
        let line = fs::read_to_string(self.host.at(format!("/proc/{process}/cmdline"))).unwrap();
        line.replace('\0', " ").trim_end().to_owned()
    }
}

/// A command of the user's; further variables may come first.
fn of_the_user(words: &[&str]) -> Vec<String> {
    let Account { uid, gid } = Account::of(GAMES);
    let mut all = vec!["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}")];
    all.extend(["--clear-groups", "--", "env"].map(str::to_owned));
    all.extend([format!("HOME={HOME}"), format!("XDG_RUNTIME_DIR={RUN}")]);
    all.extend(words.iter().map(|word| (*word).to_owned()));
    all
}

fn set_owner(path: &Path) {
    let Account { uid, gid } = Account::of(GAMES);
    chown(path, Some(uid), Some(gid)).unwrap();
}

#[tokio::test]
async fn a_disk_is_locked_for_one_guest() {
    let Some(session) = Session::begin().await else { return };
    let disk = session.image("disk.img");
    let (web1, web2) = (Guest::on("web1", &disk), Guest::on("web2", &disk));
    session.create(&web1).await.ok();
    assert_eq!(session.byte(&disk), Byte::Exclusive);
    let daemon = session.lock_daemon();
    assert_eq!(session.command_line(&daemon), format!("{VIRTLOCKD} --timeout=120"));
    session.refuses(&web2, &disk, &web1).await;
    session.virsh(&["destroy", "web1"]).await.ok();
    Byte::freed(&session.host.at(&disk)).await;
    session.create(&web2).await.ok();
    session.refuses(&web1, &disk, &web2).await;
    session.virsh(&["destroy", "web2"]).await.ok();
    Byte::freed(&session.host.at(&disk)).await;
    assert_eq!(session.lock_daemon(), daemon);
}

/// The next knows what it knew, and takes what it had.
#[tokio::test]
async fn a_lock_daemon_that_was_killed_is_started_again() {
    let Some(session) = Session::begin().await else { return };
    let disk = session.image("disk.img");
    let (web1, web2) = (Guest::on("web1", &disk), Guest::on("web2", &disk));
    session.create(&web1).await.ok();
    let daemon = session.lock_daemon();
    session.host.run(&["kill", "-KILL", &daemon]).await.ok();
    session.refuses(&web2, &disk, &web1).await;
    assert_ne!(session.lock_daemon(), daemon);
    let locked = async {
        while session.byte(&disk) != Byte::Exclusive {
            session.virsh(&["domstate", "web1"]).await.ok();
        }
    };
    within("the disk is locked again", locked).await;
    session.virsh(&["destroy", "web1"]).await.ok();
    Byte::freed(&session.host.at(&disk)).await;
    session.create(&web2).await.ok();
    session.virsh(&["destroy", "web2"]).await.ok();
}

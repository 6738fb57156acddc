//! The sandbox of the unit: the service locks disks wherever data is, and writes nothing else.

use std::fs::{self, File};
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{ForeignHolder, LockType};
use crate::nspawn::{Host, Tree, skip};

/// Paths that must not be writable from inside the sandbox.
const READ_ONLY: &[&str] = &[
    "/usr/probe",
    "/usr/local/bin/probe",
    "/usr/lib/systemd/system/probe",
    "/etc/probe",
    "/etc/systemd/system/probe",
    "/boot/probe",
    "/bin/probe",
    "/root/probe",
    "/root/.bashrc",
    "/run/probe",
    "/run/systemd/system/probe",
    "/run/systemd/transient/probe",
    "/run/systemd/generator/probe",
    "/run/udev/rules.d/probe",
    "/run/dbus/probe",
    "/run/polkit-1/rules.d/probe",
    "/run/tmpfiles.d/probe",
    "/var/spool/probe",
    "/var/spool/cron/crontabs/root",
    "/var/cache/probe",
    "/var/log/probe",
    "/var/lib/systemd/probe",
    "/var/lib/polkit-1/probe",
    "/var/lib/dpkg/info/systemd.postinst",
    "/proc/1/mem",
    "/proc/1/oom_score_adj",
    "/proc/self/mem",
    "/proc/sys/kernel/core_pattern",
    "/sys/kernel/uevent_helper",
    "/sys/fs/cgroup/cgroup.procs",
];

/// Other commands, and the end of their output.
const TRIED: &[(&str, &str)] = &[
    ("wc -c </etc/shadow", "0"),
    ("cat /root/.ssh/id_ed25519", "No such file or directory"),
    ("stat --format=%a /run/systemd/private", "0"),
    ("touch /srv/images/probe /run/vmlockd/probe-file && echo done", "done"),
    ("true 3<>/dev/null && echo done", "done"),
    ("head -c 0 /srv/character", "Operation not permitted"),
    // There may be no such disk, but nothing forbids it.
    ("head -c 0 /srv/block 2>&1 | grep permitted || echo done", "done"),
    ("unshare --mount true", "Operation not permitted"),
    ("chown games /srv/images/probe", "Operation not permitted"),
    ("chmod u+s /srv/images/probe", "Operation not permitted"),
    ("test $(grep -c : /proc/net/dev) = 1 && echo done", "done"),
];

/// Where disk images are found on real hosts.
const PLACES: &[&str] = &[
    "/srv/images",
    "/home/someone/.local/share/libvirt/images",
    "/var/lib/libvirt/images",
    "/var/lib/vz/images",
    "/mnt/pool",
    "/media/usb",
    "/run/media/someone/usb",
    "/opt/vms",
    "/tmp/vms",
    "/var/tmp/vms",
    "/vms",
];

async fn nothing_but_disks_and_its_own_can_be_written(tree: Tree) {
    let Some(host) = Host::boot(tree).await else { return };
    // Devices that it must not open: the FUSE device, and a loop device.
    host.run(&["mknod", "/srv/character", "c", "10", "229"]).await.ok();
    host.run(&["mknod", "/srv/block", "b", "7", "0"]).await.ok();
    host.write("/root/.ssh/id_ed25519", "a key");
    for path in
        READ_ONLY.iter().filter(|path| !path.starts_with("/proc") && !path.starts_with("/sys"))
    {
        fs::create_dir_all(host.at(Path::new(path).parent().unwrap())).unwrap();
    }
    // Appending nothing changes nothing, should it succeed.
    let opens = READ_ONLY.iter().map(|path| format!("(: >>{path}) 2>&1 || true\n"));
    let tries = TRIED.iter().map(|(command, _)| format!("({command}) 2>&1 || true\n"));
    host.write("/srv/opens", &opens.collect::<String>());
    host.write("/srv/tries", &tries.collect::<String>());
    let probe = "ExecStartPre=/bin/sh -c 'for what in opens tries; do \
                 /bin/sh /srv/$$what >/run/vmlockd/$$what; done'";
    host.drop_in("probe", &format!("[Service]\n{probe}\n")).await;
    let main = host.enable().await;

    let opens = fs::read_to_string(host.at("/run/vmlockd/opens")).unwrap();
    assert_eq!(opens.lines().count(), READ_ONLY.len(), "something could be written:\n{opens}");
    for (line, path) in opens.lines().zip(READ_ONLY) {
        assert!(line.ends_with(&format!("{path}: Read-only file system")), "{path}: '{line}'");
    }
    let tries = fs::read_to_string(host.at("/run/vmlockd/tries")).unwrap();
    assert_eq!(tries.lines().count(), TRIED.len(), "{tries}");
    for (line, (command, outcome)) in tries.lines().zip(TRIED) {
        assert!(line.ends_with(outcome), "{command}: not '{outcome}', but '{line}'");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", main.outside)).unwrap();
    // CAP_DAC_OVERRIDE and CAP_KILL.
    let powers = 1_u64 << 1 | 1 << 5;
    for (key, value) in [
        ("CapBnd", format!("{powers:016x}")),
        ("CapEff", format!("{powers:016x}")),
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp", "2".to_owned()),
    ] {
        assert!(status.contains(&format!("{key}:\t{value}\n")), "not {key} {value}: {status}");
    }
}

#[tokio::test]
async fn nothing_but_disks_and_its_own_can_be_written_here() {
    nothing_but_disks_and_its_own_can_be_written(Tree::Own).await;
}

#[tokio::test]
async fn nothing_but_disks_and_its_own_can_be_written_on_trixie() {
    nothing_but_disks_and_its_own_can_be_written(Tree::Release("trixie")).await;
}

/// Creates an image in a directory of the host, which is created as well.
fn image_in(host: &Host, directory: &str) -> String {
    fs::create_dir_all(host.at(directory)).unwrap();
    let path = format!("{directory}/disk.img");
    File::create(host.at(&path)).unwrap().set_len(1 << 20).unwrap();
    path
}

/// Locks a disk by name, and checks that it is locked.
async fn lock(host: &Host, path: &str) {
    host.run(&["vmlockctl", "--system", "lock", path]).await.ok();
    ForeignHolder::try_once(host.at(path), LockType::Posix, true).unwrap_err();
}

async fn disks_are_locked_wherever_data_is(tree: Tree) {
    let Some(host) = Host::boot(tree).await else { return };
    let images: Vec<String> = PLACES.iter().map(|place| image_in(&host, place)).collect();
    host.enable().await;
    for image in &images {
        lock(&host, image).await;
    }
    // Later mounts are visible and writable.
    for late in ["/mnt/late", "/run/media/late"] {
        fs::create_dir_all(host.at(late)).unwrap();
        host.run_outside_units(&["mount", "-t", "tmpfs", "late", late]).await.ok();
        lock(&host, &image_in(&host, late)).await;
    }
    // Where only shared locks can be had, the refusal says why.
    for place in ["/usr/share/vms", "/root/vms"] {
        let image = image_in(&host, place);
        let ran = host.run(&["vmlockctl", "--system", "lock", &image]).await;
        assert!(ran.stderr.contains("Read-only file system"), "{ran:?}");
        assert!(ran.stderr.contains("vmlockd(8)"), "{ran:?}");
        host.run(&["vmlockctl", "--system", "lock", &format!("{image}:shared")]).await.ok();
    }
}

#[tokio::test]
async fn disks_are_locked_wherever_data_is_here() {
    disks_are_locked_wherever_data_is(Tree::Own).await;
}

#[tokio::test]
async fn disks_are_locked_wherever_data_is_on_trixie() {
    disks_are_locked_wherever_data_is(Tree::Release("trixie")).await;
}

/// A user can mount FUSE file systems below `/run/user` and `/dev/shm`: making these directories
/// read-only must not wait for them.
async fn a_hung_mount_does_not_delay_the_start(tree: Tree) {
    if !Path::new("/dev/fuse").exists() {
        return skip("there is no /dev/fuse here").unwrap_or_default();
    }
    let Some(host) = Host::boot(tree).await else { return };
    if !host.at("/usr/bin/bindfs").exists() {
        return skip("bindfs is not installed here").unwrap_or_default();
    }
    host.run(&["mknod", "/dev/fuse", "c", "10", "229"]).await.ok();
    for (name, place) in [("one", "/run/user/hung"), ("two", "/dev/shm/hung")] {
        fs::create_dir_all(host.at(place)).unwrap();
        let line = ["bindfs", "-o", "attr_timeout=0,entry_timeout=0", "/srv/images", place];
        host.start(name, "forking", &line).await.signal(Signal::SIGSTOP);
    }
    let image = image_in(&host, "/srv/images");
    host.enable().await;
    lock(&host, &image).await;
    host.systemctl(&["restart", "vmlockd"]).await;
}

#[tokio::test]
async fn a_hung_mount_does_not_delay_the_start_here() {
    a_hung_mount_does_not_delay_the_start(Tree::Own).await;
}

#[tokio::test]
async fn a_hung_mount_does_not_delay_the_start_on_trixie() {
    a_hung_mount_does_not_delay_the_start(Tree::Release("trixie")).await;
}

/// The maximum rating of the unit by `systemd-analyze security`, in tenths.
const MOST_EXPOSURE: u32 = 16;

/// The exposure stays as low as it is, and each open item has its reason in the unit.
#[tokio::test]
async fn each_open_descriptor_has_a_reason() {
    let Some(host) = Host::boot(Tree::Release("trixie")).await else { return };
    let unit = "/usr/lib/systemd/system/vmlockd.service";
    let line = ["systemd-analyze", "--no-pager", "--offline=true", "security", unit];
    let said = host.run(&line).await.ok();
    let (_, overall) = said.split_once("Overall exposure level for vmlockd.service: ").unwrap();
    let overall = overall.split_whitespace().next().unwrap();
    let tenths: u32 = overall.replace('.', "").parse().unwrap();
    assert!(tenths <= MOST_EXPOSURE, "{said}");

    let text = fs::read_to_string(host.at(unit)).unwrap();
    let items = host.json(&[&line[..], &["--json=short"]].concat()).await;
    for item in items.as_array().unwrap().iter().filter(|item| item["set"] == Value::Bool(false)) {
        // As in "RootDirectory=/RootImage=" and "CapabilityBoundingSet=~CAP_KILL".
        let name = item["name"].as_str().unwrap();
        let setting = &name[..=name.find('=').unwrap()];
        let open = item["exposure"].as_str().is_some_and(|exposure| exposure != "0.0");
        assert!(!open || text.contains(setting), "{name} is open without a reason: {item}");
    }
}

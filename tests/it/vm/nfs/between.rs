//! Conflicts between hosts.

use std::time::Instant;

use super::hosts::{Files, Hosts, V3, V40, V42, Version, lock, refused, started, unlock};
use crate::vm::{PATIENCE, Vm};

/// Longer than a busy machine makes a host wait for its turn.
const LEASE: u32 = 90;

#[test]
#[ignore = "takes virtual machines: make test-vm"]
fn hosts_exclude_each_other() {
    let Some(hosts) = Hosts::start(LEASE) else { return };
    share_disks(&hosts);
    for version in [V3, V40, V42] {
        let disk = &version.disk();
        hosts.lock_by(version, Files::Direct);
        for (first, second) in hosts.both_ways() {
            // Beside a disk is no place for a name before version 4.2.
            alone(first, second, disk, disk, version == V42);
            together(first, second, disk);
            beside_a_program(first, second, disk);
        }
        killed(&hosts.a, &hosts.b, disk);

        hosts.lock_by(version, Files::Hashed);
        let Hosts { a, b, .. } = &hosts;
        alone(a, b, disk, disk, true);
        together(b, a, disk);
        // The same disk, by other names.
        alone(b, a, "/dev/vg/lv", "/dev/mapper/vg-lv", true);
        alone(a, b, &by_id(1), &node(b, &by_id(1)), true);
        killed(a, b, disk);
    }
    by_different_versions(&hosts, V3, V42);
}

/// Locks a disk exclusively on one host, and checks the refusal on the other, which names the
/// holder if `named`.
fn alone(first: &Vm, second: &Vm, disk: &str, elsewhere: &str, named: bool) {
    lock(first, "web1", disk, &[]);
    for mode in ["exclusive", "shared"] {
        let told = refused(second, &format!("{elsewhere}:{mode}"));
        assert!(told.contains("is locked exclusively by"), "{told}");
        let host = format!("on host {}", first.name());
        assert_eq!(told.contains("VM \"web1\"") && told.contains(&host), named, "{told}");
    }
    unlock(first, "web1");
}

/// Readers are let in on both, and keep writers out on both.
fn together(first: &Vm, second: &Vm, disk: &str) {
    let shared = format!("{disk}:shared");
    lock(first, "web1", &shared, &[]);
    let told = refused(second, disk);
    assert!(told.contains("is locked in shared mode by"), "{told}");
    lock(second, "web2", &shared, &[]);
    unlock(first, "web1");
    let told = refused(first, disk);
    assert!(told.contains("is locked in shared mode by"), "{told}");
    unlock(second, "web2");
}

/// A program locks as virtlockd does, on another host.
fn beside_a_program(first: &Vm, second: &Vm, disk: &str) {
    lock(first, "web1", disk, &[]);
    let ran = second.run(&["perl", "/srv/foreign-holder", disk]);
    assert_eq!(ran.status.code(), Some(11), "{ran:?}");
    unlock(first, "web1");

    let unit = ["systemd-run", "--quiet", "--unit=foreign-holder", "--service-type=forking"];
    second.run(&[&unit[..], &["perl", "/srv/foreign-holder", disk, "hold"]].concat()).ok();
    refused(first, disk);
    second.systemctl(&["stop", "foreign-holder"]);
    lock(first, "web1", disk, &[]);
    unlock(first, "web1");
}

/// A service that is killed keeps its locks, and who waits on the other host waits on.
fn killed(first: &Vm, second: &Vm, disk: &str) {
    lock(first, "web1", disk, &[]);
    let waits = started(second, "web2", &[disk], &["--wait"]);
    let before = first.property("MainPID");
    first.script(&format!("kill -KILL {before}"));
    refused(second, disk);
    // Once it is restarted, it verifies what it was handed.
    let since = Instant::now();
    loop {
        if let Some(locks) = first.locks() {
            assert_eq!(locks.len(), 1, "{locks:?}");
            assert_eq!(locks[0]["lost"], false, "{locks:?}");
            if locks[0]["verified"] == true {
                break;
            }
        }
        assert!(since.elapsed() < PATIENCE, "nothing has been looked at: {}", first.journal());
    }
    assert_ne!(first.property("MainPID"), before);
    refused(second, disk);
    assert!(waits.runs());
    unlock(first, "web1");
    waits.ended().ok();
    unlock(second, "web2");
}

/// Versions are ways to one server, which knows one lock.
fn by_different_versions(hosts: &Hosts, one: Version, other: Version) {
    hosts.lock_by(one, Files::Direct);
    let disk = |version: Version| format!("{}/disk-4.0", version.place());
    for (first, second) in hosts.both_ways() {
        lock(first, "web1", &disk(one), &[]);
        refused(second, &disk(other));
        unlock(first, "web1");
        lock(first, "web1", &disk(other), &[]);
        refused(second, &disk(one));
        unlock(first, "web1");
    }
}

/// Creates a volume on one of the disks that both hosts have. Neither writes to it.
fn share_disks(hosts: &Hosts) {
    let pv = by_id(2);
    for (host, _) in hosts.both_ways() {
        host.run(&["udevadm", "wait", "--timeout=120", &by_id(1), &pv]).ok();
    }
    hosts.a.script(&format!(
        "vgcreate --quiet vg {pv} && lvcreate --quiet --yes --name lv --extents 100%FREE vg"
    ));
    hosts.b.script("vgchange --quiet --activate y vg && udevadm wait --timeout=120 /dev/vg/lv");
    let uuid = |host: &Vm| host.run(&["lvs", "--noheadings", "-o", "uuid", "vg/lv"]).ok();
    assert_eq!(uuid(&hosts.a), uuid(&hosts.b));
}

fn by_id(number: u32) -> String {
    format!("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_VMLOCK-000{number}")
}

/// Returns the kernel's name of a disk on a host.
fn node(host: &Vm, name: &str) -> String {
    host.run(&["readlink", "-f", name]).ok().trim().to_owned()
}

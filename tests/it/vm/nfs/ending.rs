//! Disks whose host is unreachable or has ended.

use std::time::Instant;

use serde_json::Value;

use super::hosts::{
    Hosts, ROUND, V3, V40, V42, Version, clear, lock, mount, refused, started, unlock,
};
use crate::vm::{PATIENCE, Vm};

/// Long enough for a host that is there to be heard of on a busy machine.
const LEASE: u32 = 20;

/// Sufficient for the waiter, regardless of the load.
const WAIT: &str = "--wait=4min";

/// With NFS version 4, a host that is not heard of for the lease time loses its locks to other
/// hosts. Version 3 has no leases: a lock persists until the host is back and reports its absence,
/// or until the server is told to drop it.
#[test]
#[ignore = "takes virtual machines: make test-vm"]
fn an_unreachable_host_loses_its_disks_under_nfs_4_and_not_under_nfs_3() {
    let Some(hosts) = Hosts::start(LEASE) else { return };
    // Without directories, which are not there after a boot.
    hosts.configure("");
    let Hosts { a, b, .. } = &hosts;
    some_are_used(a);
    a.link(false);
    only_those_of_version_4_come_free(b);
    a.link(true);
    knows_what_it_has_lost(a);
    unlock(b, "web2");

    all_are_locked(a, b);
    a.freeze();
    only_those_of_version_4_come_free(b);
    unlock(b, "web2");

    // It is as after a failure of its power, with disks that remember.
    a.reset();
    let waits = started(b, "web3", &[&V3.disk()], &["--wait"]);
    a.booted();
    assert!(waits.runs());
    a.systemctl(&["start", "rpcbind", "rpc-statd-notify"]);
    waits.ended().ok();
    unlock(b, "web3");

    mount(a, &[V3]);
    lock(a, "web1", &V3.disk(), &[]);
    let Hosts { a, b, server, _wire, _tree } = hosts;
    a.power_off();
    refused(&b, &V3.disk());
    clear(&server);
    lock(&b, "web2", &V3.disk(), &[]);
}

fn all_are_locked(a: &Vm, b: &Vm) {
    let disks = [V3, V40, V42].map(Version::disk);
    started(a, "web1", &disks.each_ref().map(String::as_str), &[]).ended().ok();
    for disk in &disks {
        refused(b, disk);
    }
    // Its knowledge of its locks with version 3 is on its disk; a server of its own would write it
    // there by itself.
    a.script("sync");
}

/// By machines that are something to its service.
fn some_are_used(a: &Vm) {
    lock(a, "web1", &V3.disk(), &[]);
    for (version, on_lost) in [(V40, "kill"), (V42, "pause")] {
        let unit = format!("--unit={on_lost}");
        let run = ["systemd-run", "--quiet", &unit, "vmlockctl", "run", "--name", on_lost];
        let (on_lost, disk) = (format!("--on-lost={on_lost}"), version.disk());
        let what = [&on_lost, "--disk", &disk, "--", "sleep", "infinity"];
        a.run(&[&run[..], &what].concat()).ok();
    }
    until(a, |locks| {
        locks.len() == 3 && locks.iter().all(|lock| lock["pid"] != 0 || lock["name"] == "web1")
    });
}

/// Not later than a round after its storage answers again. Then the one machine is dead, the other
/// stands still, and the third is none of its business.
fn knows_what_it_has_lost(a: &Vm) {
    let locks = until(a, |locks| locks.len() == 2 && locks.iter().any(|lock| lock["lost"] == true));
    let (lost, kept) = match &locks[..] {
        [one, other] if one["lost"] == true => (one, other),
        [one, other] => (other, one),
        _ => unreachable!("there are two"),
    };
    assert_eq!((&lost["name"], &kept["name"]), (&"pause".into(), &"web1".into()));
    assert_eq!((&kept["lost"], &kept["verified"]), (&false.into(), &true.into()));
    let stat = || a.run(&["cat", &format!("/proc/{}/stat", lost["pid"])]).ok();
    let since = Instant::now();
    while !stat().contains(") T ") {
        assert!(since.elapsed() < PATIENCE, "{}", stat());
    }
    let journal = a.journal();
    for version in [V40, V42] {
        let (place, disk) = (version.place(), version.disk());
        let answered = stamp(&journal, &format!("mount {place} is responding again"));
        let told = stamp(&journal, &format!("LOST the lock on {disk}"));
        assert!(told < answered + f64::from(ROUND + 1), "{journal}");
    }
    assert!(journal.contains("has lost a lock: paused process "), "{journal}");

    a.systemctl(&["stop", "pause"]);
    unlock(a, "web1");
    until(a, <[Value]>::is_empty);
}

/// Waits until the locks on a host are so.
fn until(host: &Vm, so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let since = Instant::now();
    loop {
        let locks = host.locks();
        if let Some(locks) = locks.as_ref().filter(|locks| so(locks)) {
            return locks.clone();
        }
        assert!(since.elapsed() < PATIENCE, "{locks:?}");
    }
}

/// When this was said, in seconds.
fn stamp(journal: &str, said: &str) -> f64 {
    let line = journal.lines().find(|line| line.contains(said));
    let line = line.unwrap_or_else(|| panic!("{said}: {journal}"));
    line.trim_start_matches('[').split(']').next().unwrap().trim().parse().unwrap()
}

fn only_those_of_version_4_come_free(b: &Vm) {
    started(b, "web2", &[&V40.disk(), &V42.disk()], &[WAIT]).ended().ok();
    refused(b, &V3.disk());
}

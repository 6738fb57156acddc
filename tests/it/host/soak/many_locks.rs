//! Ten thousand locks come back. Without an optimizer, listing them takes half a minute; so there are
//! fewer then.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use vmlockd::client::ManagerProxy;

use super::retry::call_until_answered;
use crate::dbus_client::{TestVm, exclusive, manager};
use crate::fixture::{LockProber, within};
use crate::nspawn::{Host, Tree};

const DISKS: &str = "/srv/many";
const MANY: usize = if cfg!(debug_assertions) { 500 } else { 10_000 };
/// As many as one call may name.
const AT_ONCE: usize = 64;

/// Returns the listed locks, without their verification state, and the number of verified ones.
async fn list(manager: &ManagerProxy<'_>) -> (BTreeSet<String>, usize) {
    let rows = call_until_answered("ListLocks", || manager.list_locks(HashMap::new())).await;
    let mut verified = 0;
    let text = rows.into_iter().map(|mut row| {
        let seen = row.remove("verified").unwrap();
        verified += usize::from(bool::try_from(seen).unwrap());
        let mut row: Vec<String> =
            row.iter().map(|(key, value)| format!("{key}: {value:?}")).collect();
        row.sort();
        row.join(", ")
    });
    (text.collect(), verified)
}

/// From the start of the process until it said that it is ready, which it does when it has its
/// name: as systemd saw it.
async fn start(host: &Host) -> Duration {
    let at = async |name| host.property(name).await.parse::<u64>().unwrap();
    let began = at("ExecMainStartTimestampMonotonic").await;
    Duration::from_micros(at("ActiveEnterTimestampMonotonic").await - began)
}

#[tokio::test]
async fn many_locks_come_back() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    let many = crate::fixture::rng::times("VMLOCKD_SOAK_LOCKS", MANY);
    host.drop_in("soak", "[Service]\nRestartSec=20ms\n").await;
    host.configure("log_level = \"warning\"\n");
    fs::create_dir(host.at(DISKS)).unwrap();
    host.run(&["mount", "-t", "tmpfs", "many", DISKS]).await.ok();
    let disks: Vec<PathBuf> = (0..many).map(|n| format!("{DISKS}/{n}.img").into()).collect();
    for disk in &disks {
        File::create_new(host.at(disk)).unwrap();
    }
    let mut main = host.enable().await;
    println!("a service that holds nothing is there after {:.0?}", start(&host).await);
    let bus = host.bus().await;
    let machine = TestVm::open(&bus, "many").await;
    let begun = Instant::now();
    for disks in disks.chunks(AT_ONCE) {
        let disk_request: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
        machine.acquire(&disk_request).await.unwrap();
    }
    println!("{many} locks are given in {:.1?}", begun.elapsed());
    let manager = manager(&bus).await;
    let begun = Instant::now();
    let (before, verified) = list(&manager).await;
    println!("listed in {:.1?}", begun.elapsed());
    assert_eq!((before.len(), verified), (many, many));
    let lock_prober = LockProber::at(&[host.at(&disks[0]), host.at(&disks[many - 1])], &host.log());
    let mut watch = host.watch().await;
    for event in ["systemctl restart", "kill -9"] {
        let begun = Instant::now();
        if event == "kill -9" {
            main.signal(Signal::SIGKILL);
        } else {
            host.systemctl(&["restart", "vmlockd.service"]).await;
        }
        main = host.successor(&mut watch, main).await;
        let back = begun.elapsed();
        let all_verified = async {
            loop {
                let (after, verified) = list(&manager).await;
                assert_eq!(after, before);
                if verified == many {
                    return;
                }
            }
        };
        within("all are verified", all_verified).await;
        // The list itself takes its time.
        let seen = begun.elapsed();
        println!("{event}: back after {back:.0?}, all verified and listed after {seen:.0?}");
        within("systemd knows that it is there", async {
            while host.property("ActiveState").await != "active" {}
        })
        .await;
        println!("  from the start of the process to its name: {:.0?}", start(&host).await);
    }
    lock_prober.stop().were_refused();
    let begun = Instant::now();
    machine.owner.close(HashMap::new()).await.unwrap();
    println!("{many} locks are given back in {:.1?}", begun.elapsed());
    assert!(list(&manager).await.0.is_empty());
}

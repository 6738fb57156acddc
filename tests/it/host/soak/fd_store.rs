//! Aborted while what is kept gets its place in systemd's store, and where there is no store.

use std::collections::HashMap;

use nix::sys::signal::Signal;
use vmlockd::client::Row;

use super::{failpoints, retry::call_until_answered};
use crate::dbus_client::{TestVm, exclusive, manager, owner};
use crate::fixture::{ForeignHolder, LockType, within};
use crate::nspawn::{Host, Tree};

/// The point that is passed with each end of a pair of sockets that was stored.
pub(super) const POINT: &str = "store-end";

/// Two pairs are made at the first start.
const ENDS: usize = 4;

#[tokio::test]
async fn aborted_at_each_end_that_is_stored() {
    for n in 1..=ENDS {
        let Some(host) = Host::boot(Tree::Own).await else { return };
        host.drop_in(
            "soak",
            &format!("[Service]\nRestartSec=20ms\nLimitCORE=0\n{}", failpoints::UNIT),
        )
        .await;
        failpoints::prepare(&host);
        failpoints::arm(&host, POINT, n);
        let mut watch = host.watch().await;
        host.systemctl(&["start", "--no-block", "vmlockd.service"]).await;
        watch.owned().await;
        assert_eq!(failpoints::aborts(&host), 1, "{n}");

        let bus = host.bus().await;
        let (machine, manager) = (TestVm::open(&bus, "vm").await, manager(&bus).await);
        // The next service finds the stored descriptors of the previous one, and can add to them.
        for (disk, held) in ["a.img", "b.img", "c.img"].map(|name| host.image(name)).iter().zip(1..)
        {
            machine.acquire(&[exclusive(disk)]).await.unwrap();
            let before = host.main().await;
            before.signal(Signal::SIGKILL);
            host.successor(&mut watch, before).await;
            let listed =
                call_until_answered("ListLocks", || manager.list_locks(HashMap::new())).await;
            assert_eq!(listed.len(), held, "{n}");
            ForeignHolder::try_once(host.at(disk), LockType::Ofd, true).unwrap_err();
        }
        let stored = host.property("NFileDescriptorStore").await;
        assert_eq!(stored, ENDS.to_string(), "{n}: nothing is left in the store");
    }
}

/// The point that is passed with each lock of which nothing but the record was left.
pub(super) const RETAKEN: &str = "retake-parked";

/// Nothing outlives the service but records: each lock is taken again.
#[tokio::test]
async fn aborted_while_locks_are_taken_again() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    let unit = "[Service]\nRestartSec=20ms\nLimitCORE=0\nFileDescriptorStoreMax=0\n";
    host.drop_in("soak", &format!("{unit}{}", failpoints::UNIT)).await;
    failpoints::prepare(&host);
    host.enable().await;
    let bus = host.bus().await;
    let manager = manager(&bus).await;
    let mut machine = host.spawn(&["sh", "-c", "echo $$; exec cat"]);
    let process = machine.line().await.parse().unwrap();
    let path = manager.register_owner("", "vm", process, HashMap::new()).await.unwrap();
    let disks = ["a.img", "b.img", "c.img"].map(|name| host.image(name));
    let disk_request: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
    let locks =
        owner(&bus, path.clone()).await.acquire(&disk_request, HashMap::new()).await.unwrap();
    let mut watch = host.watch().await;
    let runs = crate::fixture::rng::times("VMLOCKD_SOAK_RUNS", 2);
    for run in 0..runs {
        failpoints::arm(&host, RETAKEN, 1 + run % disks.len());
        let before = host.main().await;
        before.signal(Signal::SIGKILL);
        let aborted = async {
            while failpoints::aborts(&host) == run {
                watch.owned().await;
                call_until_answered("ListLocks", || manager.list_locks(HashMap::new())).await;
            }
        };
        within("it aborts", aborted).await;
        let verified = async {
            loop {
                let rows =
                    call_until_answered("ListLocks", || manager.list_locks(HashMap::new())).await;
                let seen = |row: &Row| bool::try_from(row["verified"].try_clone().unwrap());
                if rows.iter().all(|row| seen(row).unwrap()) {
                    return rows.len();
                }
            }
        };
        assert_eq!(within("all are taken again", verified).await, disks.len());
        let owner = owner(&bus, path.clone()).await;
        assert_eq!(owner.acquire(&disk_request, HashMap::new()).await.unwrap(), locks);
        for disk in &disks {
            ForeignHolder::try_once(host.at(disk), LockType::Ofd, true).unwrap_err();
        }
    }
    println!("{RETAKEN}: {runs} aborts");
}

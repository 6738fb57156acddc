//! A service manager that keeps little, and a low limit on open files: what can't be kept safe is
//! not given.

use std::path::PathBuf;

use super::scenario::ServiceHost;
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::{ForeignHolder, LockProber, LockType};
use crate::methods::none;
use crate::refused_requests::assert_refused;
use crate::snapshot::Listed;

/// Locks one disk after the other until that is refused, for lack of room and without a trace.
/// Tells which it has got.
async fn until_full(place: &ServiceHost, machine: &TestVm) -> Vec<PathBuf> {
    let mut got = Vec::new();
    loop {
        let disk = place.host.image(&format!("{}.img", got.len()));
        if let Err(refused) = machine.acquire(&[exclusive(&disk)]).await {
            assert_refused(&refused, "DBus.Error.LimitsExceeded", "");
            ForeignHolder::try_once(place.host.at(&disk), LockType::Ofd, true).unwrap();
            return got;
        }
        got.push(disk);
    }
}

async fn a_full_store_keeps_the_stored_descriptors(unit: &str) {
    let Some(mut place) = ServiceHost::boot("").await else { return };
    let bus = place.bus.clone();
    let machine = TestVm::open(&bus, "web1").await;
    let first = place.host.image("first.img");
    machine.acquire(&[exclusive(&first)]).await.unwrap();
    place.host.drop_in("zz-little", &format!("[Service]\n{unit}\n")).await;
    place.host.systemctl(&["restart", "vmlockd"]).await;
    place.came_back().await;
    let got = until_full(&place, &machine).await;
    let before = Listed::by(&bus).await;
    assert_eq!(before.locks.len(), got.len() + 1);
    let some: Vec<PathBuf> = got.iter().step_by(100).chain([&first]).cloned().collect();
    let outside: Vec<PathBuf> = some.iter().map(|disk| place.host.at(disk)).collect();
    let lock_prober = LockProber::at(&outside, &place.host.log());
    for _ in 0..2 {
        place.kill(|_| ()).await;
        assert_eq!(Listed::by(&bus).await, before);
    }
    lock_prober.stop().were_refused();
    // A release needs no room.
    machine.owner.close(none()).await.unwrap();
    for disk in outside {
        ForeignHolder::try_once(disk, LockType::Ofd, true).unwrap();
    }
}

#[tokio::test]
async fn a_store_for_one_pair() {
    a_full_store_keeps_the_stored_descriptors("FileDescriptorStoreMax=2").await;
}

/// All that a user's processes have in flight counts, so it may be reached at once.
#[tokio::test]
async fn few_open_files() {
    a_full_store_keeps_the_stored_descriptors("LimitNOFILE=64").await;
}

//! The file system is shared, and its locks are: or nothing else here would mean anything.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::pair::{shared, until};
use crate::fixture::{ForeignHolder, LockType, SharedFileSystem, gone, pidfd, within};

const KINDS: [LockType; 2] = [LockType::Posix, LockType::Ofd];

#[tokio::test]
async fn each_host_sees_the_others_writes_and_no_other_process_does() {
    let Some(shared) = shared().await else { return };
    let file = shared.path().join("file");
    let [a, b] = shared.hosts();
    for (writes, reads, text) in [(a, b, "by a"), (b, a, "by b")] {
        fs::write(writes.at(&file), text).unwrap();
        until("it is written", async || fs::read_to_string(reads.at(&file)).unwrap() == text).await;
    }
    assert_eq!(fs::read_dir(shared.path()).unwrap().count(), 0);
    let ids = ["/proc/sys/kernel/random/boot_id", "/etc/machine-id"];
    for id in ids.into_iter().filter(|id| Path::new(id).exists()) {
        let [first, second] = shared.hosts().each_ref().map(|host| fs::read(host.at(id)).unwrap());
        assert_ne!(first, second, "{id}");
    }
}

#[tokio::test]
async fn locks_of_both_types_conflict_across_hosts() {
    let Some(shared) = shared().await else { return };
    let disk = shared.disk("disk");
    for [holder, other] in both_ways(&shared, &disk) {
        for (has, wants) in KINDS.iter().flat_map(|has| KINDS.map(|wants| (*has, wants))) {
            let foreign_holder = ForeignHolder::hold(&holder, has, true).unwrap();
            for exclusive in [true, false] {
                let refused = ForeignHolder::try_once(&other, wants, exclusive).unwrap_err();
                assert_eq!(refused, Errno::EAGAIN, "{has:?} and {wants:?}");
            }
            foreign_holder.release();
            let free = async || ForeignHolder::try_once(&other, wants, true).is_ok();
            until("a lock ends with its holder", free).await;

            let sharer = ForeignHolder::hold(&holder, has, false).unwrap();
            ForeignHolder::try_once(&other, wants, false).unwrap();
            let refused = ForeignHolder::try_once(&other, wants, true).unwrap_err();
            assert_eq!(refused, Errno::EAGAIN, "{has:?} and {wants:?}");
            sharer.release();
        }
    }
}

#[tokio::test]
async fn the_fixture_leaves_nothing_behind() {
    let Some(shared) = shared().await else { return };
    let path = shared.path();
    let processes: Vec<_> = shared.processes().into_iter().map(pidfd).collect();
    // The process that keeps the servers, their process 1, the two servers, and the mounts.
    assert!(processes.len() >= 6, "only {} processes", processes.len());
    drop(shared);
    for process in processes {
        within("its end", gone(process)).await;
    }
    assert!(!path.parent().unwrap().exists());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(path.to_str().unwrap()), "{mounts}");
}

fn both_ways(shared: &SharedFileSystem, disk: &Path) -> [[PathBuf; 2]; 2] {
    let [a, b] = shared.hosts().each_ref().map(|host| host.at(disk));
    [[a.clone(), b.clone()], [b, a]]
}

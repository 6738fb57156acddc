//! A runtime directory in which nothing more can be written.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;
use zbus::Connection;

use super::scenario::ServiceHost;
use crate::dbus_client::{Refused, TestVm, exclusive};
use crate::fixture::{
    Daemon, Fixture, ForeignHolder, Launch, LockProber, LockType, TestMount, within,
};
use crate::methods::none;
use crate::nspawn::Host;
use crate::refused_requests::{assert_free, assert_refused};
use crate::snapshot::Listed;

/// Takes all the room that there is; removing the file gives it back.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filling");
    let mut file = File::create(&path).unwrap();
    while file.write_all(&[b'.'; 512]).is_ok() {}
    path
}

/// Acquires until it is refused: the last page of a file has some room still. Tells the disk that
/// was refused.
async fn until_refused(
    machine: &TestVm,
    mut disk: impl FnMut(usize) -> PathBuf,
) -> (PathBuf, Refused) {
    for number in 0..100 {
        let disk = disk(number);
        if let Err(refused) = machine.acquire(&[exclusive(&disk)]).await {
            return (disk, refused);
        }
    }
    panic!("there is room for everything");
}

async fn small(fixture: &Fixture) -> (TestMount, Daemon) {
    let runtime_dir = fixture.dir().join("small");
    let mounted = TestMount::small(&runtime_dir);
    let launch = Launch { runtime_dir, ..fixture.launch() };
    (mounted, Daemon::start(fixture.bus(), launch).await)
}

fn held(fixture: &Fixture, listed: &Listed) -> LockProber {
    let files: Vec<_> = listed.locks.values().map(|lock| (&lock["lock-file"]).into()).collect();
    LockProber::at(&files, &fixture.dir().join("prober.log"))
}

const FULL: &str = "No space left on device";

#[tokio::test]
async fn no_room_for_records() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let (_mounted, daemon) = small(&fixture).await;
    let bus: Connection = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let first = fixture.raw_of(0, "first");
    let lock = web1.acquire(&[exclusive(&first)]).await.unwrap();
    let filling = fill(&daemon.launch().runtime_dir);

    let name = |number| fixture.raw_of(0, &format!("{number}.raw"));
    let (refused_disk, refused) = until_refused(&web1, name).await;
    assert_refused(&refused, "DBus.Error.IOError", FULL);
    // Less is written of an owner than of a lock.
    let mut others = Vec::new();
    while let Ok(other) = TestVm::open_with(&bus, "", "web2", none()).await {
        others.push(other);
    }
    let before = Listed::by(&bus).await;
    let descriptors = daemon.open_fds();
    let lock_prober = held(&fixture, &before);
    for _ in 0..3 {
        let refused = web1.acquire(&[exclusive(&refused_disk)]).await.unwrap_err();
        assert_refused(&refused, "DBus.Error.IOError", FULL);
        let refused: Refused = TestVm::open_with(&bus, "", "web2", none()).await.unwrap_err();
        assert_refused(&refused, "DBus.Error.IOError", FULL);
    }
    assert_free(&refused_disk);
    assert_eq!(Listed::by(&bus).await, before);
    let closed = async {
        while daemon.open_fds() != descriptors {
            Listed::by(&bus).await;
        }
    };
    within("descriptors are closed", closed).await;
    lock_prober.stop().were_refused();

    // A release needs no room.
    web1.release(&lock).await.unwrap();
    assert_free(&first);
    assert_eq!(Listed::by(&bus).await.locks.len(), before.locks.len() - 1);
    fs::remove_file(filling).unwrap();
    web1.acquire(&[exclusive(&refused_disk), exclusive(&first)]).await.unwrap();
    let before = Listed::by(&bus).await;
    daemon.kill9().await;
    daemon.start_again().await;
    assert_eq!(Listed::by(&bus).await, before);
    held(&fixture, &before).stop();
    drop((web1, others));
    let gone = async { while !Listed::by(&bus).await.owners.is_empty() {} };
    within("the machine's end", gone).await;
    assert_free(&first);
}

/// How the runtime directory is made unable to take a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// No byte is left.
    Bytes,
    /// No inode is left.
    Inodes,
    /// It is read-only.
    Writing,
    /// No byte is left on all of `/run`.
    Run,
}

impl Lack {
    /// Mounts something that can be made so, before the service starts.
    async fn prepare(self, host: &Host) {
        let tmpfs = |options| ["mount", "-t", "tmpfs", "-o", options, "none", "/run/vmlockd"];
        match self {
            Self::Bytes | Self::Writing => {
                host.run_outside_units(&tmpfs("size=64k,mode=700")).await.ok()
            }
            Self::Inodes => {
                host.run_outside_units(&tmpfs("size=1m,nr_inodes=16,mode=700")).await.ok()
            }
            Self::Run => {
                host.run_outside_units(&["mount", "-o", "remount,size=16m", "/run"]).await.ok()
            }
        };
    }

    fn begin(self, host: &Host) {
        let runtime = host.at("/run/vmlockd");
        match self {
            Self::Bytes => drop(fill(&runtime)),
            Self::Run => drop(fill(&host.at("/run"))),
            Self::Inodes => {
                fs::create_dir(runtime.join("filling")).unwrap();
                let name = |number: usize| runtime.join(format!("filling/{number}"));
                assert!((0..100).map_while(|number| File::create(name(number)).ok()).count() < 100);
            }
            // Only where no file is open for writing: see `kill`.
            Self::Writing => {}
        }
    }

    /// Kills the service, with the lack there when the next one starts.
    async fn kill(self, place: &mut ServiceHost) {
        if self == Self::Writing {
            let gate = place.host.at("/srv/gate");
            place.host.run(&["mkfifo", "/srv/gate"]).await.ok();
            // The next start waits until the other end is opened.
            let wait = "[Service]\nExecStartPre=/bin/sh -c ': </srv/gate'\n";
            place.host.drop_in("gate", wait).await;
            place.stop_and_wait().await;
            // The file system, and not just this mount of it.
            for options in ["remount,ro", "remount,bind,rw"] {
                place.host.run_outside_units(&["mount", "-o", options, "/run/vmlockd"]).await.ok();
            }
            let open =
                spawn_blocking(move || drop(File::options().write(true).open(gate).unwrap()));
            within("the next start", open).await.unwrap();
            place.came_back().await;
            place.host.drop_in("gate", "").await;
        } else {
            place.kill(|_| ()).await;
        }
    }

    async fn end(self, host: &Host) {
        let runtime = host.at("/run/vmlockd");
        match self {
            Self::Bytes => fs::remove_file(runtime.join("filling")).unwrap(),
            Self::Run => fs::remove_file(host.at("/run/filling")).unwrap(),
            Self::Inodes => fs::remove_dir_all(runtime.join("filling")).unwrap(),
            Self::Writing => {
                host.run_outside_units(&["mount", "-o", "remount,rw", "/run/vmlockd"]).await.ok();
            }
        }
    }
}

/// Killed where nothing can be written, the service starts all the same, keeps all locks, refuses new
/// ones, and goes on once something can be written again.
async fn starts_without(lack: Lack) {
    let Some(mut place) = ServiceHost::boot("").await else { return };
    lack.prepare(&place.host).await;
    place.host.systemctl(&["restart", "vmlockd"]).await;
    place.came_back().await;
    let bus = place.bus.clone();
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let [kept, given_back, new] = ["kept", "given-back", "new"].map(|name| place.host.image(name));
    web1.acquire(&[exclusive(&kept)]).await.unwrap();
    let second = web1.acquire(&[exclusive(&given_back)]).await.unwrap();
    let before = Listed::by(&bus).await;
    let lock_prober = LockProber::at(&[place.host.at(&kept)], &place.host.log());

    lack.begin(&place.host);
    lack.kill(&mut place).await;
    assert_eq!(Listed::by(&bus).await, before);
    for machine in [&web1, &web2] {
        let refused = machine.acquire(&[exclusive(&new)]).await.unwrap_err();
        let words = "no new locks are granted until this succeeds";
        assert_refused(&refused, "DBus.Error.IOError", words);
        assert!(refused.message.contains("/run/vmlockd/state"), "{}", refused.message);
    }
    ForeignHolder::try_once(place.host.at(&new), LockType::Ofd, true).unwrap();
    let refused = web2.acquire(&[exclusive(&kept)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "web1");

    web1.release(&second).await.unwrap();
    ForeignHolder::try_once(place.host.at(&given_back), LockType::Ofd, true).unwrap();
    if lack != Lack::Writing {
        // That is recorded in place, and so outlives another crash.
        let before = Listed::by(&bus).await;
        assert_eq!(before.locks.len(), 1);
        place.kill(|_| ()).await;
        assert_eq!(Listed::by(&bus).await, before);
        ForeignHolder::try_once(place.host.at(&given_back), LockType::Ofd, true).unwrap();
    }

    lack.end(&place.host).await;
    web2.acquire(&[exclusive(&new)]).await.unwrap();
    let before = Listed::by(&bus).await;
    assert_eq!(before.locks.len(), 2);
    place.kill(|_| ()).await;
    assert_eq!(Listed::by(&bus).await, before);
    lock_prober.stop().were_refused();
    drop((web1, web2));
    let gone = async { while !Listed::by(&bus).await.owners.is_empty() {} };
    within("the machines' end", gone).await;
    // An owner is no longer listed from the moment its end is decided; the bytes are unlocked after.
    let is_free = || ForeignHolder::try_once(place.host.at(&kept), LockType::Ofd, true).is_ok();
    let free = async {
        while !is_free() {
            tokio::task::yield_now().await;
        }
    };
    within("the disk is unlocked", free).await;
}

#[tokio::test]
async fn a_successor_starts_without_a_byte_of_room() {
    starts_without(Lack::Bytes).await;
}

#[tokio::test]
async fn a_successor_starts_without_an_inode() {
    starts_without(Lack::Inodes).await;
}

#[tokio::test]
async fn a_successor_starts_where_it_can_only_read() {
    starts_without(Lack::Writing).await;
}

#[tokio::test]
async fn a_successor_starts_where_all_of_run_is_full() {
    starts_without(Lack::Run).await;
}

/// The state file is written again by itself once that is possible, without a request.
#[tokio::test]
async fn the_state_is_written_as_soon_as_there_is_room() {
    let Some(mut place) = ServiceHost::boot("").await else { return };
    Lack::Bytes.prepare(&place.host).await;
    place.host.systemctl(&["restart", "vmlockd"]).await;
    place.came_back().await;
    let mut scenario = super::scenario::Scenario::set_up(&mut place).await;
    let place = scenario.service_host();
    let before = fs::metadata(place.host.at(super::STATE)).unwrap().ino();
    Lack::Bytes.begin(&place.host);
    place.kill(|_| ()).await;
    let inode = || fs::metadata(place.host.at(super::STATE)).unwrap().ino();
    assert_eq!(inode(), before);
    Lack::Bytes.end(&place.host).await;
    within("the state file is written again", async {
        while inode() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    scenario.comes_back_as_it_was().await;
}

/// Where another directory is in the place of its own, the service does not start, and says why.
#[tokio::test]
async fn a_directory_that_is_read_only() {
    let Some(mut place) = ServiceHost::boot("").await else { return };
    let mut scenario = super::scenario::Scenario::set_up(&mut place).await;
    let place = scenario.service_host();
    let mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", "/run/vmlockd"];
    place.host.run(&mount).await.ok();
    place.stop(|_| ());
    place.tried_again().await;
    let said = place.host.journal().await;
    assert!(said.contains("Read-only file system"), "{said}");
    place.host.run(&["umount", "/run/vmlockd"]).await.ok();
    place.came_back().await;
    scenario.comes_back_as_it_was().await;
}

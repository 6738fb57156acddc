//! Descriptors that show no disk, or less than is asked for, or more than they should.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Serialize, Serializer};
use vmlockd::client::Options;
use zbus::Fd;
use zbus::wire::{Signature, Type};

use crate::dbus_client::{AsFdDyn, Refused, TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::user::NOBODY;
use crate::fixture::{
    Answer, Broker, Fixture, ForeignHolder, LockType, OtherMountNamespace, hold_file_lease, polkit,
    within, yield_file_lease,
};
use crate::refused_requests::{Untouched, assert_free, assert_refused};

const NOT_LOCKABLE: &str = "NotLockable";

fn opened(path: impl AsRef<Path>, flags: OFlag) -> OwnedFd {
    let path = path.as_ref();
    open(path, flags | OFlag::O_CLOEXEC, Mode::empty())
        .unwrap_or_else(|errno| panic!("{}: {errno}", path.display()))
}

fn read_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// All that a descriptor can be of and no lock can be put on, with what is said of it.
fn no_disks(fixture: &Fixture) -> Vec<(OwnedFd, &'static str)> {
    let disk = fixture.raw_of(0, "disk.raw");
    let deleted = fixture.raw_of(0, "deleted.raw");
    let gone = opened(&deleted, OFlag::O_RDWR);
    fs::remove_file(deleted).unwrap();
    let me = Pid::from_raw(std::process::id().cast_signed()).unwrap();
    let (fifo, _) = io::pipe().unwrap();
    let (socket, _) = UnixStream::pair().unwrap();
    let neither = "it is neither a regular file nor a block device";
    vec![
        (opened(&disk, OFlag::O_PATH), "the descriptor was opened with O_PATH"),
        (opened(&disk, OFlag::O_WRONLY), "the descriptor was opened for writing only"),
        (gone, "it has been deleted"),
        (memfd_create(c"disk", MFdFlags::MFD_CLOEXEC).unwrap(), "it has been deleted"),
        (opened(fixture.dir(), OFlag::O_RDONLY), "it is a directory"),
        (fifo.into(), "it is a FIFO"),
        (socket.into(), "it is a socket"),
        (opened("/dev/null", OFlag::O_RDWR), "it is a character device"),
        (opened("/proc/self/mem", OFlag::O_RDWR), "it is on proc"),
        (opened("/proc/self/ns/mnt", OFlag::O_RDONLY), "it is on nsfs"),
        (pidfd_open(me, PidfdFlags::empty()).unwrap(), neither),
    ]
}

#[tokio::test]
async fn a_descriptor_of_no_disk_is_refused() {
    let direct = Fixture::builder();
    let hashed = Fixture::builder().folder("locks").config("file_lockspace_dir = \"@DIR@/locks\"");
    for fixture in [direct.start().await, hashed.start().await] {
        let bus = fixture.connection().await;
        let machine = TestVm::open(&bus, "web1").await;
        let right = fixture.raw_of(0, "right");
        let held = machine.acquire(&[shared(&right)]).await.unwrap();
        let held = lock(&bus, &held[0]).await;
        let other = fixture.raw_of(0, "other");
        let files = no_disks(&fixture);
        let before = Untouched::so_far(&fixture).await;
        for (file, words) in &files {
            for mode in ["exclusive", "shared"] {
                let refused = machine.acquire_files(&[(file, mode)]).await.unwrap_err();
                assert_refused(&refused, NOT_LOCKABLE, words);
            }
            // One that is right before it and one after it are not locked either.
            let (first, last) = (read_write(&other), File::open(&right).unwrap());
            let several: [(&dyn AsFdDyn, &str); 3] =
                [(&first, "exclusive"), (file, "exclusive"), (&last, "shared")];
            let refused = machine.acquire_files(&several).await.unwrap_err();
            assert_refused(&refused, NOT_LOCKABLE, words);
            assert_free(&other);
            // It is equally worthless as a proof for an upgrade of its lock.
            let proof = option("file", Fd::from(file.as_fd()));
            let refused = held.convert("exclusive", proof).await.unwrap_err().into();
            assert_refused(&refused, NOT_LOCKABLE, words);
            assert_eq!(held.mode().await.unwrap(), "shared");
            before.still(words).await;
        }
        before.and_it_goes_on().await;
    }
}

#[tokio::test]
async fn finding_the_holders_of_no_disk_is_an_error() {
    let fixture = Fixture::builder().start().await;
    let manager = manager(&fixture.connection().await).await;
    let files = no_disks(&fixture);
    let before = Untouched::so_far(&fixture).await;
    for (file, words) in &files {
        let asked = manager.find_holders_of_file(Fd::from(file.as_fd()), HashMap::new()).await;
        if words.starts_with("the descriptor was opened") {
            // However it was opened, it says which disk it is.
            assert_eq!(asked.unwrap(), []);
        } else {
            assert_refused(&asked.unwrap_err().into(), NOT_LOCKABLE, words);
        }
        before.still(words).await;
    }
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn an_open_file_whose_name_was_taken_from_it_is_the_same_disk() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (first, second) = (fixture.raw_of(0, "first"), fixture.dir().join("second"));
    fs::hard_link(&first, &second).unwrap();
    let file = read_write(&first);
    fs::remove_file(&first).unwrap();
    let web1 = TestVm::open(&bus, "web1").await;
    let locks = web1.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    let its = lock(&bus, &locks[0]).await;
    let identity = its.identity().await.unwrap();
    assert_eq!(its.resource().await.unwrap(), format!("fd:{identity}"));
    let web2 = TestVm::open(&bus, "web2").await;
    let refused = web2.acquire(&[exclusive(&second)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", &format!("through fd:{identity}"));
}

#[tokio::test]
async fn one_disk_twice_in_a_call_is_one_lock_or_a_contradiction() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let soft = fixture.dir().join("soft");
    symlink(&disk, &soft).unwrap();
    let (one, two) = (read_write(&disk), read_write(&soft));
    let machine = TestVm::open(&bus, "web1").await;
    let both = |mode| vec![(Fd::from(&one), "exclusive"), (Fd::from(&two), mode)];
    let by_name = [exclusive(&disk), exclusive(&soft), exclusive(&disk)];
    let before = Untouched::so_far(&fixture).await;
    let files = both("exclusive");
    let locks = machine.owner.acquire_with_files(&by_name, &files, HashMap::new()).await.unwrap();
    assert_eq!(locks, vec![locks[0].clone(); 5]);
    machine.release(&locks).await.unwrap();

    for (named, files) in [
        (&by_name[..1], both("shared")),
        (&[shared(&soft)][..], both("exclusive")),
        (&[exclusive(&disk), shared(&soft)], Vec::new()),
    ] {
        let refused = machine.owner.acquire_with_files(named, &files, HashMap::new()).await;
        let words = "is requested twice in one call, in different modes";
        assert_refused(&refused.unwrap_err().into(), "DBus.Error.InvalidArgs", words);
    }
    assert_free(&disk);
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_file_lease_that_is_kept_delays_no_other_request() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let file = read_write(&disk);
    let machine = TestVm::open(&bus, "web1").await;
    drop(file);
    let log = fixture.dir().join("lease.log");
    let holder = hold_file_lease(&disk, &log).await;
    let before = Untouched::so_far(&fixture).await;
    // The kernel would have a plain open() wait for 45 seconds, which is longer than this waits.
    let asked = within("an answer", machine.acquire(&[exclusive(&disk)])).await;
    let words = format!(
        "disk {} is kept by a lease (F_SETLEASE) of another program (perl, pid {}, user root)",
        disk.display(),
        holder.pid()
    );
    assert_refused(&asked.unwrap_err(), "LockHeldElsewhere", &words);
    let asked = within("an answer", machine.acquire(&[shared(&disk)])).await;
    assert_refused(&asked.unwrap_err(), "LockHeldElsewhere", &words);
    let shown = opened(&disk, OFlag::O_PATH);
    let asked = within("an answer", machine.acquire_files(&[(&shown, "shared")])).await;
    assert_refused(&asked.unwrap_err(), NOT_LOCKABLE, "O_PATH");
    before.and_it_goes_on().await;
    drop(holder);
    machine.acquire(&[exclusive(&disk)]).await.unwrap();
}

#[tokio::test]
async fn a_file_lease_that_is_broken_at_once_costs_no_retry() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let _holder = yield_file_lease(&disk, &fixture.dir().join("lease.log")).await;
    machine.acquire(&[exclusive(&disk)]).await.unwrap();
}

#[tokio::test]
async fn a_name_forged_by_a_mount_namespace_is_refused() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let victim = fixture.raw_of(0, "victim");
    let mine = fixture.raw_of(NOBODY, "mine");
    let elsewhere =
        OtherMountNamespace::start(&victim, &mine, &fixture.dir().join("elsewhere.log")).await;
    let file = elsewhere.open(&victim);
    let seen = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
    assert_eq!(seen.unwrap(), victim, "the forgery works");

    let machine = TestVm::open(&user, "web1").await;
    let locks = machine.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    let its = lock(&user, &locks[0]).await;
    let name = format!("fd:{}", its.identity().await.unwrap());
    assert_eq!(its.resource().await.unwrap(), name);
    assert_eq!(its.lock_file().await.unwrap(), name);
    // The passed file is the locked one, and has this name for all callers.
    let other = TestVm::open(&root, "web2").await;
    let refused = other.acquire(&[exclusive(&mine)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", &format!(", through {name}"));
    other.acquire(&[exclusive(&victim)]).await.unwrap();
    let (manager, claimed) = (manager(&root).await, victim.to_str().unwrap());
    let holders = manager.find_holders(claimed, HashMap::new()).await.unwrap();
    assert_eq!(<&str>::try_from(&holders[0]["name"]).unwrap(), "web2");

    for question in fixture.polkit().mock().seen() {
        assert!(question.details.values().all(|detail| detail != claimed), "{question:?}");
    }
    drop(other);
    let about_web1 = fixture.daemon().complete_log().await;
    let about_web1: Vec<_> = about_web1.lines().filter(|line| line.contains("65534")).collect();
    assert!(!about_web1.is_empty() && !about_web1.concat().contains(claimed), "{about_web1:#?}");
}

#[tokio::test]
async fn where_lock_files_go_by_name_a_forged_name_locks_nothing() {
    let fixture = Fixture::builder().folder("locks");
    let fixture = fixture.config("file_lockspace_dir = \"@DIR@/locks\"").start().await;
    let bus = fixture.connection().await;
    let (victim, mine) = (fixture.raw_of(0, "victim"), fixture.raw_of(0, "mine"));
    let elsewhere =
        OtherMountNamespace::start(&victim, &mine, &fixture.dir().join("elsewhere.log")).await;
    let file = elsewhere.open(&victim);
    let machine = TestVm::open(&bus, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    let refused = machine.acquire_files(&[(&file, "exclusive")]).await.unwrap_err();
    assert_refused(&refused, NOT_LOCKABLE, "its lock file is named after it");
    assert!(!refused.message.contains("victim"), "{refused:?}");
    before.and_it_goes_on().await;
    machine.acquire(&[exclusive(&victim), exclusive(&mine)]).await.unwrap();
}

#[tokio::test]
async fn more_descriptors_than_a_message_may_carry() {
    for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
        let fixture = Fixture::builder().broker(broker).start().await;
        let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
        let watcher = manager(&fixture.connection().await).await;
        let before = Untouched::so_far(&fixture).await;
        let machine = TestVm::open_with(&bus, "", "web1", option("manual", true)).await.unwrap();
        let file = read_write(&disk);
        let files = |n| (0..n).map(|_| (Fd::from(&file), "exclusive")).collect::<Vec<_>>();
        let sixteen = files(16);
        let locks = machine.owner.acquire_with_files(&[], &sixteen, HashMap::new()).await.unwrap();
        assert_eq!(locks.len(), 16);
        machine.release(&locks).await.unwrap();

        let seventeen = files(17);
        let asked = machine.owner.acquire_with_files(&[], &seventeen, HashMap::new());
        let refused = within("an end", asked).await.unwrap_err();
        if broker == Broker::DbusDaemon {
            // It lets no such message through, and its sender neither.
            within("the end of the connection", bus.closed()).await;
        } else {
            let words = "17 descriptors in one call; the limit is 16";
            assert_refused(&refused.into(), "DBus.Error.LimitsExceeded", words);
        }
        assert_eq!(watcher.n_locks().await.unwrap(), 0);
        ForeignHolder::try_once(&disk, LockType::Ofd, true).unwrap();
        // The owner is not affected: a connection is not an anchor.
        let again = fixture.connection().await;
        let owner = crate::dbus_client::owner(&again, machine.path()).await;
        owner.close(HashMap::new()).await.unwrap();
        drop(machine);
        before.and_it_goes_on().await;
    }
}

#[tokio::test]
async fn a_descriptor_that_the_message_does_not_carry() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web1").await;
    let path = machine.path();
    let before = Untouched::so_far(&fixture).await;
    for index in [0, 1, 7, u32::MAX] {
        let (service, interface) = (Some("org.vmlockd1"), Some("org.vmlockd1.Owner"));
        let arguments = (Index(index), Options::new());
        let asked = bus.call_method(service, path.as_str(), interface, "BindProcess", &arguments);
        let refused = within("an answer", asked).await.unwrap_err();
        assert_eq!(Refused::from(refused).name, "DBus.Error.InvalidArgs");
        before.still(&format!("descriptor {index} of none")).await;
    }
    before.and_it_goes_on().await;
}

/// The place of a descriptor in a message that has none there.
struct Index(u32);

impl Type for Index {
    const SIGNATURE: &'static Signature = &Signature::Fd;
}

impl Serialize for Index {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

//! Names that lead to no disk, or to one that can't be had.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::process::Command;
use zbus::Connection;

use crate::dbus_client::{Answer, Refused, TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::{Fixture, OpenWatch, TestMount, run, within};
use crate::refused_requests::{Untouched, assert_free, assert_refused};

const NOT_LOCKABLE: &str = "NotLockable";
const NOT_FOUND: &str = "DBus.Error.FileNotFound";
const INVALID: &str = "DBus.Error.InvalidArgs";

/// Names a disk in every way there is, and tells what came of it.
async fn in_every_way(
    bus: &Connection,
    machine: &TestVm,
    disk: &str,
) -> Vec<(&'static str, Answer<()>)> {
    let manager = manager(bus).await;
    let (none, disk_request) = (HashMap::new, [(disk, "exclusive")]);
    let disks = || option("resources", disk_request.to_vec());
    vec![
        ("Acquire", machine.acquire(&disk_request).await.map(drop)),
        ("OpenOwner", TestVm::open_with(bus, "", "vm", disks()).await.map(drop)),
        ("RegisterOwner", answer(manager.register_owner("", "vm", 0, disks()).await)),
        ("Resolve", answer(manager.resolve(disk, none()).await)),
        ("FindHolders", answer(manager.find_holders(disk, none()).await)),
    ]
}

fn answer<T>(outcome: zbus::Result<T>) -> Answer<()> {
    outcome.map(drop).map_err(Refused::from)
}

/// Makes everything that may lie in a directory and is no disk.
fn fill_with_no_disks(dir: &Path) -> UnixListener {
    fs::create_dir(dir.join("folder")).unwrap();
    mkfifo(&dir.join("fifo"), Mode::S_IRWXU).unwrap();
    File::create(dir.join("file")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    UnixListener::bind(dir.join("socket")).unwrap()
}

#[tokio::test]
async fn a_path_of_no_disk_is_refused_by_every_method() {
    let direct = Fixture::builder();
    let hashed = Fixture::builder().folder("locks").config("file_lockspace_dir = \"@DIR@/locks\"");
    for fixture in [direct.start().await, hashed.start().await] {
        let (bus, dir) = (fixture.connection().await, fixture.dir());
        let _socket = fill_with_no_disks(dir);
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let too_long = format!("/{}", "x".repeat(4999));
        let long_name = at(&"x".repeat(256));
        let table = [
            ("a.qcow2".to_owned(), INVALID, "path 'a.qcow2' is not absolute"),
            ("./a.qcow2".to_owned(), INVALID, "path './a.qcow2' is not absolute"),
            ("file:///a.qcow2".to_owned(), INVALID, "path 'file:///a.qcow2' is not absolute"),
            (String::new(), INVALID, "path '' is empty"),
            (too_long, INVALID, "xxx…' is longer than 4095 bytes"),
            (long_name, "DBus.Error.IOError", "File name too long"),
            ("lease:/srv/a/b".to_owned(), "NoSuchLockspace", "lockspace /srv/a does not exist;"),
            ("lease:srv/a/b".to_owned(), INVALID, "path 'srv/a/b' is not absolute"),
            (at("missing"), NOT_FOUND, "/missing does not exist"),
            (at("file/below"), NOT_FOUND, "/file/below does not exist"),
            (at("dangling"), NOT_FOUND, "/dangling does not exist"),
            (at("loop"), NOT_LOCKABLE, "/loop: its path has a loop"),
            (at("folder"), NOT_LOCKABLE, "/folder: it is a directory"),
            (at("fifo"), NOT_LOCKABLE, "/fifo: it is a FIFO"),
            (at("socket"), NOT_LOCKABLE, "/socket: it is a socket"),
            ("/".to_owned(), NOT_LOCKABLE, "/: it is a directory"),
            ("/dev/null".to_owned(), NOT_LOCKABLE, "/dev/null: it is a character"),
            ("/proc/self/mem".to_owned(), NOT_LOCKABLE, "/proc/self/mem: it is on"),
            ("/proc/self/exe".to_owned(), NOT_LOCKABLE, "cannot lock /proc/self/exe"),
            ("/proc/self/fd/0".to_owned(), NOT_LOCKABLE, "cannot lock /proc/self/fd/0"),
            ("/sys/kernel/uevent_seqnum".to_owned(), NOT_LOCKABLE, "it is on sysfs"),
        ];
        let machine = TestVm::open(&bus, "web1").await;
        let before = Untouched::so_far(&fixture).await;
        let opened = OpenWatch::watch([dir.join("folder").as_path(), &dir.join("fifo")]);
        for (name, error, words) in &table {
            let asked = within(name, in_every_way(&bus, &machine, name)).await;
            // Looking at what there is opens directories too.
            assert!(!opened.any(), "{name} was opened");
            for (way, outcome) in asked {
                println!("{way} of {name:.80}");
                assert_refused(&outcome.unwrap_err(), error, words);
            }
            before.still(name).await;
            opened.any();
        }
        before.and_it_goes_on().await;
    }
}

#[tokio::test]
async fn one_invalid_disk_in_a_request_leaves_all_unlocked() {
    let fixture = Fixture::builder().start().await;
    let (bus, missing) = (fixture.connection().await, fixture.dir().join("missing"));
    let disks: Vec<_> = (0..3).map(|n| fixture.raw_of(0, &format!("{n}"))).collect();
    let machine = TestVm::open(&bus, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    for at in 0..=disks.len() {
        let mut disk_request: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
        disk_request.insert(at, shared(&missing));
        let refused = machine.acquire(&disk_request).await.unwrap_err();
        assert_refused(&refused, NOT_FOUND, "/missing does not exist");
        for disk in &disks {
            assert_free(disk);
        }
    }
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn no_name_forges_a_line_or_moves_the_cursor() {
    let fixture = Fixture::builder().start().await;
    let (bus, dir) = (fixture.connection().await, fixture.dir());
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let before = Untouched::so_far(&fixture).await;
    for (name, escaped) in [
        ("a\nERROR a disk was lost", "a\\nERROR a disk was lost"),
        ("a\u{1b}[2J\u{1b}[31m", "a\\u{1b}[2J\\u{1b}[31m"),
        ("a\u{202e}2wocq.elif", "a\\u{202e}2wocq.elif"),
        ("a\u{2066}b\u{200b}c\u{feff}", "a\\u{2066}b\\u{200b}c\\u{feff}"),
    ] {
        let disk = dir.join(name);
        let missing = web1.acquire(&[exclusive(&disk)]).await.unwrap_err();
        assert_refused(&missing, NOT_FOUND, escaped);
        fs::create_dir(&disk).unwrap();
        let folder = web1.acquire(&[exclusive(&disk)]).await.unwrap_err();
        assert_refused(&folder, NOT_LOCKABLE, escaped);
        fs::remove_dir(&disk).unwrap();

        // A disk may be called so all the same, and programs get its name to the letter.
        File::create(&disk).unwrap();
        let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let resource = lock(&bus, &locks[0]).await.resource().await.unwrap();
        assert_eq!(resource, disk.to_str().unwrap());
        let held = web2.acquire(&[exclusive(&disk)]).await.unwrap_err();
        assert_refused(&held, "LockHeld", escaped);
        web1.release(&locks).await.unwrap();
        fs::remove_file(&disk).unwrap();
    }
    let option = "forse\n\u{1b}[2J";
    let options = HashMap::from([(option, true.into())]);
    let unknown = web1.owner.close(options).await.unwrap_err().into();
    assert_refused(&unknown, INVALID, "unknown option 'forse\\n\\u{1b}[2J'");
    before.and_it_goes_on().await;

    let log = fixture.daemon().complete_log().await;
    for line in log.lines() {
        assert_ne!(line.split_whitespace().nth(1), Some("ERROR"), "{line}");
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
    assert!(log.contains("ERROR a disk was lost"), "the log shows disks by name");
}

/// A file that cannot be changed or opened for writing, not even by root, until it is dropped.
struct Immutable<'f>(&'f Path);

impl<'f> Immutable<'f> {
    async fn make(file: &'f Path) -> Self {
        let mut command = Command::new("chattr");
        command.arg("+i").arg(file);
        run(command).await.ok();
        Self(file)
    }
}

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        let undone = std::process::Command::new("chattr").arg("-i").arg(self.0).status();
        assert!(undone.is_ok_and(|status| status.success()), "{} stays", self.0.display());
    }
}

/// An immutable file, which only root can create.
mod host {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_can_only_be_read_is_locked_shared_and_stays_so() {
        let fixture = Fixture::builder().folder("images").start().await;
        let (bus, at) = (fixture.connection().await, fixture.dir().join("read-only"));
        fixture.raw_of(0, "images/a.iso");
        let immutable = fixture.raw_of(0, "fixed.iso");
        let _mounted = TestMount::read_only(&fixture.dir().join("images"), &at);
        let _fixed = Immutable::make(&immutable).await;
        let machine = TestVm::open(&bus, "web1").await;
        let before = Untouched::so_far(&fixture).await;
        for (disk, cause) in
            [(&at.join("a.iso"), "Read-only file system"), (&immutable, "Operation not permitted")]
        {
            let words = format!("cannot lock {}: it cannot be opened for writing", disk.display());
            let refused = machine.acquire(&[exclusive(disk)]).await.unwrap_err();
            assert_refused(&refused, NOT_LOCKABLE, &words);
            assert_refused(&refused, NOT_LOCKABLE, cause);
            before.still(cause).await;

            let locks = machine.acquire(&[shared(disk)]).await.unwrap();
            let its = lock(&bus, &locks[0]).await;
            let stronger = its.convert("exclusive", HashMap::new()).await.unwrap_err().into();
            assert_refused(&stronger, NOT_LOCKABLE, "cannot be upgraded");
            assert_refused(&stronger, NOT_LOCKABLE, disk.to_str().unwrap());
            assert_eq!(its.mode().await.unwrap(), "shared");
            machine.release(&locks).await.unwrap();
        }
        before.and_it_goes_on().await;
    }
}

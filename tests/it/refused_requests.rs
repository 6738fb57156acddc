//! A refused request changes nothing, keeps nothing, and is not the last one that is served.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use vmlockd::client::{MANAGER_PATH, SERVICE};
use zbus::Connection;
use zbus::fdo::ObjectManagerProxy;

use crate::dbus_client::{Refused, TestVm, exclusive, lock, manager};
use crate::fixture::{Fixture, ForeignHolder, LockType, within};

/// The service and its surroundings before a request that will be refused.
pub(crate) struct Untouched<'h> {
    fixture: &'h Fixture,
    bus: Connection,
    descriptors: usize,
    picture: Picture,
}

/// The visible state as text.
#[derive(Debug, PartialEq)]
struct Picture {
    owners: Vec<String>,
    locks: Vec<String>,
    files: Vec<PathBuf>,
}

impl<'h> Untouched<'h> {
    /// Takes a snapshot. Objects that the test has dropped must have disappeared before.
    pub(crate) async fn so_far(fixture: &'h Fixture) -> Self {
        let bus = fixture.connection().await;
        within("lockspaces are examined", async { while !are_examined(&bus).await {} }).await;
        let picture = Picture::take(fixture, &bus).await;
        Self { fixture, descriptors: fixture.daemon().open_fds(), bus, picture }
    }

    /// Looks again: nothing was locked, opened as an owner or created, and what the service opened
    /// for the request it has closed.
    pub(crate) async fn still(&self, request: &str) {
        assert_eq!(Picture::take(self.fixture, &self.bus).await, self.picture, "{request}");
        // The answer may come a moment before the descriptors of the question are closed. Each
        // look is a round trip to the service, which does one thing after the other.
        let closed = async {
            while self.fixture.daemon().open_fds() != self.descriptors {
                manager(&self.bus).await.n_locks().await.unwrap();
            }
        };
        let closed = tokio::time::timeout(crate::fixture::DEADLINE, closed).await;
        let left = self.fixture.daemon().fd_targets();
        assert!(closed.is_ok(), "{request}: not {} descriptors, but {left:#?}", self.descriptors);
    }

    /// Waits until the state is as before: the objects of an ended process disappear a moment
    /// later.
    ///
    /// Directories in `lasting` may be open: a lockspace stays open once it is.
    pub(crate) async fn again(&self, lasting: &Path) -> Result<(), String> {
        let mut now = None;
        let as_before = async {
            loop {
                let picture = Picture::take(self.fixture, &self.bus).await;
                let open = self.fixture.daemon().open_fds() - directories(self.fixture, lasting);
                if picture == self.picture && open == self.descriptors {
                    return;
                }
                now = Some((picture, open));
            }
        };
        let waited = tokio::time::timeout(crate::fixture::DEADLINE, as_before).await;
        waited.map_err(|_| {
            let (picture, open) = now.expect("it was looked at");
            let targets = self.fixture.daemon().fd_targets();
            format!(
                "not {:#?} with {} descriptors, but {picture:#?} with {open}: {targets:#?}",
                self.picture, self.descriptors
            )
        })
    }

    /// Checks that the state is as before, and that a valid request succeeds.
    pub(crate) async fn and_it_goes_on(&self) {
        self.still("all of it").await;
        let owner = self.fixture.launch().session_of.unwrap_or(0);
        let disk = self.fixture.raw_of(owner, "right.raw");
        let machine = TestVm::open(&self.bus, "right").await;
        let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();
        let lock_file = lock(&self.bus, &locks[0]).await.lock_file().await.unwrap();
        ForeignHolder::try_once(lock_file, LockType::Ofd, true).unwrap_err();
        machine.owner.close(HashMap::new()).await.unwrap();
        drop(machine);
        assert_free(&disk);
        fs::remove_file(disk).unwrap();
        self.still("what is right").await;
    }
}

impl Picture {
    async fn take(fixture: &Fixture, bus: &Connection) -> Self {
        let manager = manager(bus).await;
        let said = |rows: Vec<vmlockd::client::Row>, key: &str| {
            rows.iter().map(|row| format!("{:?}", row[key])).collect()
        };
        let owners = within("owners", manager.list_owners(HashMap::new())).await.unwrap();
        let locks = within("locks", manager.list_locks(HashMap::new())).await.unwrap();
        let mut files = Vec::new();
        list(fixture.dir(), &mut files);
        files.sort();
        Self { owners: said(owners, "owner"), locks: said(locks, "lock"), files }
    }
}

/// Whether the service has tried what locks are worth in its lockspaces, with files of its own.
async fn are_examined(bus: &Connection) -> bool {
    let objects = ObjectManagerProxy::builder(bus).destination(SERVICE).path(MANAGER_PATH);
    let objects = objects.build().await.unwrap().get_managed_objects().await.unwrap();
    objects.values().filter_map(|interfaces| interfaces.get("org.vmlockd1.Lockspace")).all(
        |lockspace| {
            let word = |key: &str| String::try_from(lockspace[key].clone()).unwrap();
            word("Directory").is_empty() || !word("SelfTestResult").is_empty()
        },
    )
}

/// How many directories below this one the service has open.
fn directories(fixture: &Fixture, below: &Path) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fd", fixture.daemon().pid())).unwrap();
    let open = fds.flatten().filter(|fd| {
        let leads_below = fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(below));
        leads_below && fs::metadata(fd.path()).is_ok_and(|what| what.is_dir())
    });
    open.count()
}

/// All that is in a directory, however deep.
fn list(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), into);
        }
        into.push(entry.path());
    }
}

/// Checks that the file is not locked.
#[track_caller]
pub(crate) fn assert_free(disk: &Path) {
    ForeignHolder::try_once(disk, LockType::Ofd, true)
        .unwrap_or_else(|errno| panic!("{} is locked: {errno}", disk.display()));
}

/// The request was refused with this error, in a sentence that has these words in it.
#[track_caller]
pub(crate) fn assert_refused(refused: &Refused, error: &str, words: &str) {
    assert_eq!(refused.name, error, "{}", refused.message);
    assert!(refused.message.contains(words), "not \"{words}\", but \"{}\"", refused.message);
    let clean = refused.message.chars().all(|c| !c.is_control() && c != '\u{202e}');
    assert!(clean, "{:?}", refused.message);
}

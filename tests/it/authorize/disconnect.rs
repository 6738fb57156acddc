//! A caller that disconnects during a polkit check gets nothing, and the check is cancelled.

use std::fs::File;
use std::path::PathBuf;

use zbus::{Connection, Fd, OwnedObjectPath};

use super::{question, read_write, with_mock};
use crate::dbus_client::{TestVm, exclusive, lock, manager, option, owner, shared};
use crate::fixture::user::{NOBODY, ROOT};
use crate::fixture::{Answer, Call, Fixture, Mock, NameWatch, within};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free};

/// The methods under test, each with the number of polkit checks.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Open,
    OpenWithDisk,
    OpenWithProcess,
    Register,
    AcquireByName,
    AcquireFiles,
    AcquireToRead,
    BindPid,
    Upgrade,
    Resolve,
    ManageForeign,
    ReleaseForeign,
    Reload,
}

const DEEDS: [(Deed, usize); 13] = [
    (Deed::Open, 1),
    (Deed::OpenWithDisk, 2),
    (Deed::OpenWithProcess, 2),
    (Deed::Register, 1),
    (Deed::AcquireByName, 2),
    (Deed::AcquireFiles, 2),
    (Deed::AcquireToRead, 1),
    (Deed::BindPid, 1),
    (Deed::Upgrade, 1),
    (Deed::Resolve, 1),
    (Deed::ManageForeign, 1),
    (Deed::ReleaseForeign, 1),
    (Deed::Reload, 1),
];

/// The objects of the methods, none of which changes.
struct Stage {
    fixture: Fixture,
    mine: TestVm,
    shared: OwnedObjectPath,
    roots: TestVm,
    held: OwnedObjectPath,
    disks: [PathBuf; 2],
}

impl Stage {
    async fn set() -> Self {
        let fixture = with_mock().await;
        fixture.polkit().mock().answer(Answer::Allow);
        let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
        let mine = TestVm::open(&user, "mine").await;
        let read = File::open(fixture.raw_of(NOBODY, "shared")).unwrap();
        let shared = mine.acquire_files(&[(&read, "shared")]).await.unwrap().remove(0);
        let roots = TestVm::open(&root, "roots").await;
        let held =
            roots.acquire(&[exclusive(&fixture.raw_of(ROOT, "held"))]).await.unwrap().remove(0);
        let disks = ["one", "two"].map(|name| fixture.raw_of(NOBODY, name));
        Self { fixture, mine, shared, roots, held, disks }
    }

    /// Calls a method, which may get a reply or not.
    async fn act(&self, deed: Deed, bus: &Connection) -> zbus::Result<()> {
        let [one, two] = &self.disks;
        let manager = manager(bus).await;
        let mine = owner(bus, self.mine.path()).await;
        let me = std::process::id();
        match deed {
            Deed::Open => manager.open_owner("", "new", none()).await.map(drop),
            Deed::OpenWithDisk => {
                let disks = option("resources", vec![exclusive(one)]);
                manager.open_owner("", "new", disks).await.map(drop)
            }
            Deed::OpenWithProcess => {
                let process = crate::fixture::pidfd(me);
                let process = option("process", Fd::from(&process));
                manager.open_owner("", "new", process).await.map(drop)
            }
            Deed::Register => manager.register_owner("", "new", me, none()).await.map(drop),
            Deed::AcquireByName => {
                mine.acquire(&[exclusive(one), shared(two)], none()).await.map(drop)
            }
            Deed::AcquireFiles => {
                let files = [read_write(one), read_write(two)];
                let disk_request = files.each_ref().map(|file| (Fd::from(file), "exclusive"));
                mine.acquire_with_files(&[], &disk_request, none()).await.map(drop)
            }
            Deed::AcquireToRead => {
                let file = File::open(one).unwrap();
                mine.acquire_with_files(&[], &[(Fd::from(&file), "exclusive")], none())
                    .await
                    .map(drop)
            }
            Deed::BindPid => mine.bind_pid(me, none()).await,
            Deed::Upgrade => lock(bus, &self.shared).await.convert("exclusive", none()).await,
            Deed::Resolve => manager.resolve(one.to_str().unwrap(), none()).await.map(drop),
            Deed::ManageForeign => {
                owner(bus, self.roots.path()).await.new_lifeline(none()).await.map(drop)
            }
            Deed::ReleaseForeign => {
                lock(bus, &self.held).await.release(option("force", true)).await
            }
            Deed::Reload => manager.reload(none()).await,
        }
    }
}

/// From now on the question of this number, from 0, is not answered, and those before it with yes.
fn hang_at(mock: &Mock, number: usize) {
    let mut count = 0;
    mock.decide(move |_: &Call| {
        count += 1;
        if count > number { Answer::Hang } else { Answer::Allow }
    });
}

#[tokio::test]
async fn a_caller_that_disconnects_during_a_check_gets_nothing() {
    let stage = Stage::set().await;
    let mock = stage.fixture.polkit().mock();
    let before = Untouched::so_far(&stage.fixture).await;
    for (deed, questions) in DEEDS {
        for number in 0..questions {
            println!("{deed:?}, question {number}");
            hang_at(mock, number);
            let asked = mock.seen().len();
            let leaves = stage.fixture.connection_as(NOBODY).await;
            let call = tokio::select! {
                answer = stage.act(deed, &leaves) => panic!("{deed:?} is not asked about: {answer:?}"),
                call = question(mock, asked + number) => call,
            };
            leaves.close().await.unwrap();
            assert_eq!(mock.next_cancellation().await, call.cancellation_id);
            assert!(!mock.release(&call, Answer::Allow), "nobody waits for an answer");
            assert_eq!(mock.seen().len(), asked + number + 1, "no question follows");
            before.still(&format!("{deed:?}, question {number}")).await;
        }
    }
    let mode = lock(stage.mine.owner.inner().connection(), &stage.shared).await.mode().await;
    assert_eq!(mode.unwrap(), "shared");
    assert_eq!(stage.mine.owner.anchors().await.unwrap(), ["lifeline"]);
    assert_eq!(stage.roots.owner.anchors().await.unwrap(), ["lifeline"]);
    for disk in &stage.disks {
        assert_free(disk);
    }
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn an_authorization_after_a_disconnect_grants_nothing() {
    let stage = Stage::set().await;
    let mock = stage.fixture.polkit().mock();
    let watcher = stage.fixture.connection().await;
    let before = Untouched::so_far(&stage.fixture).await;
    for (deed, questions) in DEEDS {
        println!("{deed:?}");
        hang_at(mock, questions - 1);
        let asked = mock.seen().len();
        let leaves = stage.fixture.connection_as(NOBODY).await;
        let name = leaves.unique_name().unwrap().to_string();
        let mut watch = NameWatch::new(&watcher, &name).await;
        let call = tokio::select! {
            answer = stage.act(deed, &leaves) => panic!("{deed:?} is not asked about: {answer:?}"),
            call = question(mock, asked + questions - 1) => call,
        };
        leaves.close().await.unwrap();
        // The bus knows; whether the service does, or reads the answer first, is open.
        watch.free().await;
        mock.release(&call, Answer::Allow);
        within("a request after it", before.still(&format!("{deed:?}"))).await;
    }
    before.and_it_goes_on().await;
}

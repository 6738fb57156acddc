//! Names whose lookup a user makes long, by chains of symbolic links, delay nothing of root's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::dbus_client::{TestVm, exclusive, manager, option};
use crate::fixture::user::{GAMES, ROOT};
use crate::fixture::{Answer, Fixture, ForeignHolder, LockType, polkit, within};
use crate::methods::none;
use crate::refused_requests::assert_refused;
use crate::snapshot::text;

/// As many links, and components of each, as the kernel follows.
const LINKS: usize = 38;
const DETOURS: usize = 800;

/// A service, and disks of a user in a directory of its own, locked before a disk of root's.
struct Scenario {
    fixture: Fixture,
    directory: PathBuf,
    of_user: Vec<PathBuf>,
    of_root: PathBuf,
    _owners: [TestVm; 2],
}

impl Scenario {
    async fn set_up(count: usize) -> Self {
        let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
        fixture.polkit().mock().answer(Answer::Allow);
        let directory = fixture.dir().join("user");
        fs::create_dir(&directory).unwrap();
        let of_user: Vec<PathBuf> =
            (0..count).map(|n| fixture.raw_of(GAMES, &format!("user/disk{n}"))).collect();
        let bus = fixture.connection_as(GAMES).await;
        let user = TestVm::open(&bus, "user").await;
        for disk in &of_user {
            user.acquire(&[exclusive(disk)]).await.unwrap();
        }
        let of_root = fixture.raw_of(ROOT, "root");
        let root = TestVm::open(&fixture.connection().await, "root").await;
        root.acquire(&[exclusive(&of_root)]).await.unwrap();
        Self { fixture, directory, of_user, of_root, _owners: [user, root] }
    }

    /// The disks that the service reports as lost, in the order of its reports.
    fn lost(&self) -> Vec<String> {
        let log = self.fixture.daemon().stderr();
        let reports = log.lines().filter_map(|line| line.split_once("LOST the lock on "));
        reports.map(|(_, rest)| rest.split(" (").next().unwrap().to_owned()).collect()
    }

    async fn until_lost(&self, count: usize) -> Vec<String> {
        let manager = manager(&self.fixture.connection().await).await;
        let reported = async {
            while self.lost().len() < count {
                manager.n_locks().await.unwrap();
            }
        };
        within("the lost locks are reported", reported).await;
        self.lost()
    }

    /// Replaces the user's directory by a chain of links that leads to it.
    fn replace_by_chain(&self) {
        let at = |name: &str| self.fixture.dir().join(name);
        fs::rename(&self.directory, at("moved")).unwrap();
        fs::create_dir(at("p")).unwrap();
        for n in 0..LINKS {
            let name = if n == 0 { "user".to_owned() } else { format!("link{n}") };
            let next = if n + 1 == LINKS { "moved".to_owned() } else { format!("link{}", n + 1) };
            symlink("p/../".repeat(DETOURS) + &next, at(&name)).unwrap();
        }
        // The kernel follows it.
        assert!(self.of_user[0].exists());
    }
}

fn spelt(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn locks_of_root_are_acquired_again_before_those_of_users() {
    let scenario = Scenario::set_up(3).await;
    scenario.fixture.daemon().kill9().await;
    let all = scenario.of_user.iter().chain([&scenario.of_root]);
    // Each lock is reported when it can't be acquired again.
    let foreign_holders: Vec<ForeignHolder> =
        all.map(|disk| ForeignHolder::hold(disk, LockType::Ofd, true).unwrap()).collect();
    scenario.fixture.daemon().start_again().await;
    let lost = scenario.until_lost(4).await;
    let of_user: Vec<&str> = scenario.of_user.iter().map(|disk| spelt(disk)).collect();
    assert_eq!(lost, [&[spelt(&scenario.of_root)], &of_user[..]].concat());
    drop(foreign_holders);
}

#[tokio::test]
async fn a_disk_is_reacquired_whatever_symlinks_lead_to() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (disk, other) = (fixture.raw_of(ROOT, "disk"), fixture.raw_of(ROOT, "other"));
    let link = fixture.dir().join("link");
    symlink(&disk, &link).unwrap();
    let machine = TestVm::open(&bus, "web1").await;
    machine.acquire(&[exclusive(&link)]).await.unwrap();
    fixture.daemon().kill9().await;
    fs::remove_file(&link).unwrap();
    symlink(&other, &link).unwrap();
    fixture.daemon().start_again().await;
    let verified = async {
        loop {
            let rows = manager(&bus).await.list_locks(none()).await.unwrap();
            if bool::try_from(&rows[0]["verified"]).unwrap() {
                return;
            }
        }
    };
    within("the lock is verified", verified).await;
    ForeignHolder::try_once(&disk, LockType::Ofd, true).unwrap_err();
    ForeignHolder::try_once(&other, LockType::Ofd, true).unwrap();
}

#[tokio::test]
async fn name_with_too_many_components_is_neither_followed_nor_locked() {
    let scenario = Scenario::set_up(2).await;
    let bus = scenario.fixture.connection().await;
    scenario.replace_by_chain();
    let rows = manager(&bus).await.list_locks(option("check-names", true)).await.unwrap();
    let state = |disk: &Path| {
        let row = rows.iter().find(|row| text(row, "resource") == spelt(disk)).unwrap();
        row.get("name-state").map(|state| String::try_from(state.clone()).unwrap())
    };
    // Where it leads is not known, as it is not followed so far.
    let of_user = scenario.of_user.iter().map(|disk| state(disk));
    assert!(of_user.chain([state(&scenario.of_root)]).all(|state| state.is_none()));
    let name = scenario.directory.join("new");
    fs::write(&name, "").unwrap();
    let web = TestVm::open(&bus, "web").await;
    let refused = web.acquire(&[exclusive(&name)]).await.unwrap_err();
    assert_refused(&refused, "DBus.Error.IOError", "File name too long");

    scenario.fixture.daemon().kill9().await;
    scenario.fixture.daemon().start_again().await;
    let lost = scenario.until_lost(2).await;
    assert_eq!(
        lost,
        scenario.of_user.iter().map(|disk| spelt(disk).to_owned()).collect::<Vec<_>>()
    );
    ForeignHolder::try_once(&scenario.of_root, LockType::Ofd, true).unwrap_err();
}

//! Lockspaces and leases are created and removed, and neither while they are in use.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use nix::sys::stat::Mode;
use zbus::fdo::ObjectManagerProxy;

use super::{Scenario, refused, text};
use crate::dbus_client::{TestVm, manager, option};
use crate::fixture::user::{Account, NOBODY};
use crate::fixture::{Fixture, ForeignHolder, LockType, TestMount};
use crate::methods::none;
use crate::refused_requests::{assert_free, assert_refused};

const INVALID: &str = "DBus.Error.InvalidArgs";
const IO: &str = "DBus.Error.IOError";

/// The names of the lockspaces that are shown, in order.
async fn shown(scenario: &Scenario) -> Vec<String> {
    let objects = ObjectManagerProxy::builder(&scenario.bus).destination("org.vmlockd1");
    let objects = objects.path("/org/vmlockd1").build().await.unwrap();
    let objects = objects.get_managed_objects().await.unwrap();
    let names = objects.keys().filter_map(|path| path.strip_prefix("/org/vmlockd1/lockspace/"));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_lockspace_comes_and_goes() {
    let scenario = Scenario::set_up().await;
    let Scenario { fixture, manager, directory, .. } = &scenario;
    assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o7777, 0o700);
    // Asked for once more it is the same, also by another spelling; and one below is another.
    let again = format!("{}//.//", directory.display());
    let path = manager.create_lockspace(&again, none()).await.unwrap();
    assert_eq!(path.as_str(), "/org/vmlockd1/lockspace/lease_1");
    let below = directory.join("a/b");
    let path = manager.create_lockspace(text(&below), none()).await.unwrap();
    assert_eq!(path.as_str(), "/org/vmlockd1/lockspace/lease_2");
    assert_eq!(shown(&scenario).await, ["direct", "lease_1", "lease_2"]);

    let refused_for = |path: &str| {
        let path = path.to_owned();
        async move { refused(manager.remove_lockspace(&path, none()).await) }
    };
    let gone = refused_for(text(&fixture.dir().join("none"))).await;
    assert_refused(&gone, "NoSuchLockspace", "does not exist; create it first");
    assert_refused(&refused_for(text(directory)).await, IO, "cannot remove lockspace");
    assert_refused(&refused_for(text(directory)).await, IO, "not empty");
    manager.remove_lockspace(text(&below), none()).await.unwrap();
    assert!(!below.exists() && directory.join("a").exists());
    assert_eq!(shown(&scenario).await, ["direct", "lease_1"]);
    assert_refused(
        &refused_for(text(&below)).await,
        "NoSuchLockspace",
        "does not exist; create it first",
    );

    // A number is not used again, and what is gone is not there after a restart.
    let path = manager.create_lockspace(text(&below), none()).await.unwrap();
    assert_eq!(path.as_str(), "/org/vmlockd1/lockspace/lease_3");
    manager.remove_lockspace(text(&below), none()).await.unwrap();
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    assert_eq!(shown(&scenario).await, ["direct", "lease_1"]);
    fs::remove_dir(directory.join("a")).unwrap();
    manager.remove_lockspace(text(directory), none()).await.unwrap();
    assert!(!directory.exists());
    assert_eq!(shown(&scenario).await, ["direct"]);
}

#[tokio::test]
async fn a_lockspace_that_others_could_replace_is_refused() {
    let fixture = Fixture::builder().folder("open").folder("theirs").start().await;
    let (bus, dir) = (fixture.connection().await, fixture.dir());
    let manager = manager(&bus).await;
    fs::set_permissions(dir.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    chown(dir.join("theirs"), Some(NOBODY), Some(Account::of(NOBODY).gid)).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for (path, error, words) in [
        (at("open/locks"), "NotLockable", "is writable by its group or by all"),
        (at("theirs/locks"), "NotLockable", "belongs to uid"),
        (at("file"), "NotLockable", "is not a directory"),
        (at("file/below"), "NotLockable", "is not a directory"),
        (at("a/../b"), INVALID, "has '..' in it"),
        ("locks".to_owned(), INVALID, "is not absolute"),
        (String::new(), INVALID, "is empty"),
        (format!("/{}", "x".repeat(5000)), INVALID, "is longer than 4095 bytes"),
    ] {
        let refused = refused(manager.create_lockspace(&path, none()).await);
        assert_refused(&refused, error, words);
    }
    for made in ["open/locks", "theirs/locks", "b", "a"] {
        assert!(!dir.join(made).exists(), "{made}");
    }
    let unknown = refused(manager.create_lockspace(&at("x"), option("mode", 7_u32)).await);
    assert_refused(&unknown, INVALID, "unknown option 'mode'");
    assert!(!dir.join("x").exists());
}

#[tokio::test]
async fn there_are_only_so_many_lockspaces() {
    let scenario = Scenario::set_up().await;
    for n in 2..=256 {
        let path = scenario.directory.join(n.to_string());
        scenario.manager.create_lockspace(text(&path), none()).await.unwrap();
    }
    let path = scenario.directory.join("257");
    let refused = refused(scenario.manager.create_lockspace(text(&path), none()).await);
    assert_refused(
        &refused,
        "DBus.Error.LimitsExceeded",
        "too many lockspaces: the limit is 256 in total",
    );
    assert!(!path.exists());
}

#[tokio::test]
async fn a_lockspace_in_use_is_not_removed() {
    let scenario = Scenario::set_up().await;
    let name = scenario.lease("web").await;
    let remove = async || {
        refused(scenario.manager.remove_lockspace(text(&scenario.directory), none()).await)
    };
    let (web1, web2) =
        (TestVm::open(&scenario.bus, "web1").await, TestVm::open(&scenario.bus, "web2").await);
    let locks = web1.acquire(&[(&name, "shared")]).await.unwrap();
    assert_refused(&remove().await, "LockHeld", "is locked in shared mode by VM \"web1\"");
    // A waiter counts as a use.
    let waits = async {
        let disk_request = [(name.as_str(), "exclusive")];
        refused(web2.owner.acquire(&disk_request, option("timeout-usec", u64::MAX)).await)
    };
    let meanwhile = async {
        while scenario.manager.n_waiting().await.unwrap() == 0 {}
        assert_refused(&remove().await, "LockHeld", "web1");
        web2.owner.cancel(none()).await.unwrap();
    };
    let (withdrawn, ()) = tokio::join!(waits, meanwhile);
    assert_eq!(withdrawn.name, "WaitCancelled");
    web1.owner.suspend(none()).await.unwrap();
    fs::remove_file(scenario.file("web")).unwrap();
    let words = "is in use: VM \"web1\" is suspended, and remembers a lease in it";
    assert_refused(&remove().await, "LockHeld", words);
    // Without its lease, it can't go on.
    let resumed = refused(web1.owner.resume(none()).await);
    assert_refused(&resumed, "DBus.Error.FileNotFound", "does not exist");
    scenario.lease("web").await;
    web1.owner.resume(none()).await.unwrap();
    assert_ne!(web1.locks().await, locks);
    web1.owner.close(none()).await.unwrap();
    scenario.manager.remove_lease(&name, none()).await.unwrap();
    scenario.manager.remove_lockspace(text(&scenario.directory), none()).await.unwrap();
    let gone = web2.acquire(&[(&name, "shared")]).await.unwrap_err();
    let words = format!("lockspace {} does not exist", scenario.directory.display());
    assert_refused(&gone, "NoSuchLockspace", &words);
}

#[tokio::test]
async fn a_lease_comes_and_goes() {
    let scenario = Scenario::set_up().await;
    let (manager, file) = (&scenario.manager, scenario.file("web"));
    let web1 = TestVm::open(&scenario.bus, "web1").await;
    let name = scenario.name("web");
    let missing = format!("lease {} does not exist", &name[6..]);
    let not_there = [
        refused(manager.remove_lease(&name, none()).await),
        refused(manager.resolve(&name, none()).await),
        refused(manager.find_holders(&name, none()).await),
        web1.acquire(&[(&name, "shared")]).await.unwrap_err(),
    ];
    for refused in not_there {
        assert_refused(&refused, "DBus.Error.FileNotFound", &missing);
    }
    assert!(!file.exists(), "none is made by asking for it");

    scenario.lease("web").await;
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let resolved = manager.resolve(&name, none()).await.unwrap();
    let word = |key| crate::snapshot::text(&resolved, key);
    assert_eq!((word("resource"), word("lock-file")), (name.clone(), text(&file).to_owned()));
    assert_eq!(word("lockspace"), "/org/vmlockd1/lockspace/lease_1");
    assert!(word("identity").starts_with("key:"), "{resolved:?}");

    let locks = web1.acquire(&[(&name, "shared")]).await.unwrap();
    // An existing one stays, with or without a holder.
    scenario.lease("web").await;
    let held = refused(manager.remove_lease(&name, none()).await);
    assert_refused(&held, "LockHeld", "is locked in shared mode by VM \"web1\"");
    web1.release(&locks).await.unwrap();
    for kind in [LockType::Posix, LockType::Ofd] {
        let foreign_holder = ForeignHolder::hold(&file, kind, false).unwrap();
        let held = refused(manager.remove_lease(&name, none()).await);
        assert_refused(&held, "LockHeldElsewhere", &format!("pid {}", foreign_holder.pid()));
        foreign_holder.release();
    }
    assert!(file.exists());
    assert_free(&file);
    fs::write(&file, "a disk after all").unwrap();
    let filled = refused(manager.remove_lease(&name, none()).await);
    assert_refused(&filled, "NotLockable", "it is not empty, so it is not a lock file");
    assert_free(&file);
    fs::write(&file, "").unwrap();
    manager.remove_lease(&name, none()).await.unwrap();
    assert!(!file.exists());
    let again = refused(manager.remove_lease(&name, none()).await);
    assert_refused(&again, "DBus.Error.FileNotFound", "does not exist");
}

#[tokio::test]
async fn only_a_regular_file_is_a_lease() {
    let scenario = Scenario::set_up().await;
    let web1 = TestVm::open(&scenario.bus, "web1").await;
    fs::create_dir(scenario.file("folder")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", scenario.file("link")).unwrap();
    nix::unistd::mkfifo(&scenario.file("fifo"), Mode::S_IRWXU).unwrap();
    for key in ["folder", "link", "fifo"] {
        let name = scenario.name(key);
        let answers = [
            refused(scenario.manager.create_lease(&name, none()).await),
            refused(scenario.manager.remove_lease(&name, none()).await),
            web1.acquire(&[(&name, "exclusive")]).await.unwrap_err(),
        ];
        for refused in answers {
            assert_refused(&refused, IO, "cannot open lock file");
        }
    }
    assert_eq!(fs::read_dir(&scenario.directory).unwrap().count(), 3);
}

#[tokio::test]
async fn the_directory_of_the_configuration_is_not_for_leases() {
    let fixture = Fixture::builder().folder("locks").config("file_lockspace_dir = \"@DIR@/locks\"");
    let scenario = Scenario::within(fixture.start().await).await;
    let locks = scenario.fixture.dir().join("locks");
    let path = scenario.manager.create_lockspace(text(&locks), none()).await.unwrap();
    assert_eq!(path.as_str(), "/org/vmlockd1/lockspace/file");
    let name = format!("lease:{}/web", locks.display());
    let answers = [
        refused(scenario.manager.remove_lockspace(text(&locks), none()).await),
        refused(scenario.manager.create_lease(&name, none()).await),
        refused(scenario.manager.remove_lease(&name, none()).await),
    ];
    for refused in answers {
        assert_refused(&refused, INVALID, "belongs to the configuration");
    }
    assert_eq!(fs::read_dir(&locks).unwrap().count(), 0);
}

#[tokio::test]
async fn storage_that_is_mounted_later_is_what_counts() {
    let fixture = Fixture::builder().folder("storage").start().await;
    let scenario = Scenario::within(fixture).await;
    let name = scenario.lease("web").await;
    let web1 = TestVm::open(&scenario.bus, "web1").await;
    let mounted = TestMount::empty_over(&scenario.directory);
    let hidden = web1.acquire(&[(&name, "shared")]).await.unwrap_err();
    assert_refused(&hidden, "DBus.Error.FileNotFound", "does not exist");
    scenario.lease("web").await;
    let locks = web1.acquire(&[(&name, "exclusive")]).await.unwrap();
    ForeignHolder::try_once(scenario.file("web"), LockType::Ofd, true).unwrap_err();
    web1.release(&locks).await.unwrap();
    scenario.manager.remove_lease(&name, none()).await.unwrap();
    // A mount point stays, and is no longer a lockspace.
    scenario.manager.remove_lockspace(text(&scenario.directory), none()).await.unwrap();
    assert!(scenario.directory.exists());
    assert_eq!(shown(&scenario).await, ["direct"]);
    drop(mounted);
    assert!(scenario.file("web").exists());
}

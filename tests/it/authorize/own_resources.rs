//! A user's own disks and machines, with the real polkit and no password.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use zbus::fdo::ObjectManagerProxy;
use zbus::{Connection, Fd, connection};

use super::{DENIED, INTERACTIVE, read_write, with_mock, with_polkit};
use crate::dbus_client::{Refused, TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::user::{DAEMON, NOBODY, ROOT, as_user};
use crate::fixture::{
    Answer, Broker, Fixture, ForeignHolder, LockType, OpenWatch, TestMount, polkit, within,
};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};

/// Opens a disk with all the rights that its mode gives to others.
fn open_to_read(fixture: &Fixture, uid: u32, name: &str) -> File {
    let disk = fixture.raw_of(uid, name);
    fs::set_permissions(&disk, Permissions::from_mode(0o644)).unwrap();
    File::open(disk).unwrap()
}

#[tokio::test]
async fn a_user_locks_an_open_disk_without_a_password() {
    for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
        let fixture = Fixture::builder().broker(broker);
        let fixture = fixture.polkit(polkit::Choice::Real { rules: String::new() }).start().await;
        let (disk, address) = (fixture.image_of(NOBODY, "mine.qcow2").await, fixture.address());
        // All of it as that user: the connection, and the open of a file that only this user can
        // open.
        let path = disk.clone();
        let machine = as_user(NOBODY, async move || {
            let file = read_write(&path);
            let bus = connection::Builder::address(address.as_str()).build().await.unwrap();
            let machine = TestVm::open(&bus, "web1").await;
            let locks = machine.acquire_files(&[(&file, "exclusive")]).await.unwrap();
            let its = lock(&bus, &locks[0]).await;
            assert_eq!(its.resource().await.unwrap(), path.to_str().unwrap());
            ForeignHolder::try_once(&path, LockType::Ofd, false).unwrap_err();
            machine.release(&locks).await.unwrap();
            assert_free(&path);
            machine.acquire_files(&[(&file, "shared")]).await.unwrap();
            (machine.path(), machine.lifeline)
        });
        let (path, lifeline) = within("what the user does", machine).await;
        // The connection is closed, and the locks remain.
        let root = fixture.connection().await;
        let owner = crate::dbus_client::owner(&root, path).await;
        assert_eq!(owner.uid().await.unwrap(), NOBODY);
        assert_eq!(owner.locks().await.unwrap().len(), 1);
        ForeignHolder::try_once(&disk, LockType::Ofd, true).unwrap_err();
        drop(lifeline);
    }
}

#[tokio::test]
async fn a_user_registers_an_own_process() {
    let fixture = with_polkit("").await;
    let (bus, disk) = (fixture.connection_as(NOBODY).await, fixture.raw_of(NOBODY, "disk"));
    let mut process = fixture.command_as(NOBODY, "sleep").arg("1000").spawn().unwrap();
    let pid = process.id().unwrap();
    let path = manager(&bus).await.register_owner("", "web1", pid, none()).await.unwrap();
    let owner = crate::dbus_client::owner(&bus, path).await;
    let file = read_write(&disk);
    owner.acquire_with_files(&[], &[(Fd::from(&file), "exclusive")], none()).await.unwrap();
    owner.bind_pid(pid, none()).await.unwrap();
    assert_eq!(owner.anchors().await.unwrap(), ["process", "process"]);
    process.kill().await.unwrap();
}

#[tokio::test]
async fn own_resources_need_no_authorization() {
    let fixture = with_mock().await;
    let mock = fixture.polkit().mock();
    mock.answer(Answer::Allow);
    let bus = fixture.connection_as(NOBODY).await;
    let disks = [fixture.raw_of(NOBODY, "one"), fixture.raw_of(NOBODY, "two")];
    let files = disks.each_ref().map(|disk| read_write(disk));
    let machine = TestVm::open(&bus, "web1").await;
    let disk_request = [(&files[0] as _, "exclusive"), (&files[1] as _, "exclusive")];
    let locks = machine.acquire_files(&disk_request).await.unwrap();
    let process = fixture.command_as(NOBODY, "sleep").arg("1000").spawn().unwrap();
    let pid = process.id().unwrap();
    let asked = mock.seen().len();
    mock.answer(Answer::Deny);

    let its = lock(&bus, &locks[0]).await;
    its.convert("shared", none()).await.unwrap();
    // It was locked through a descriptor opened for writing; that was proof enough.
    its.convert("exclusive", none()).await.unwrap();
    machine.owner.bind_pid(pid, none()).await.unwrap();
    machine.owner.new_lifeline(none()).await.unwrap();
    machine.owner.cancel(none()).await.unwrap();
    machine.release(&locks[..1]).await.unwrap();
    lock(&bus, &locks[1]).await.release(none()).await.unwrap();
    machine.owner.close(none()).await.unwrap();
    assert_eq!(mock.seen().len(), asked);
}

#[tokio::test]
async fn a_path_is_no_proof_of_access() {
    let fixture = with_polkit("").await;
    let bus = fixture.connection_as(NOBODY).await;
    let manager = manager(&bus).await;
    let (mine, roots) = (fixture.raw_of(NOBODY, "mine"), fixture.raw_of(ROOT, "roots"));
    let machine = TestVm::open(&bus, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    let opened = OpenWatch::watch([mine.as_path(), &roots]);
    for disk in [&mine, &roots] {
        let resources = || option("resources", vec![shared(disk)]);
        let name = disk.to_str().unwrap();
        for refused in [
            machine.acquire(&[exclusive(disk)]).await.unwrap_err(),
            machine.acquire(&[shared(disk)]).await.unwrap_err(),
            TestVm::open_with(&bus, "", "web2", resources()).await.unwrap_err(),
            manager.resolve(name, none()).await.unwrap_err().into(),
        ] {
            assert_refused(&refused, INTERACTIVE, "org.vmlockd1.acquire-by-name needs");
        }
        assert!(!opened.any());
        before.still("a name").await;
    }
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn read_access_allows_shared_locks_on_own_disks_only() {
    let fixture = with_polkit("").await;
    let bus = fixture.connection_as(NOBODY).await;
    let (mine, roots) =
        (open_to_read(&fixture, NOBODY, "mine"), open_to_read(&fixture, ROOT, "roots"));
    let others = open_to_read(&fixture, DAEMON, "others");
    let machine = TestVm::open(&bus, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    for disk_request in [
        (&mine, "exclusive"),
        (&roots, "exclusive"),
        (&roots, "shared"),
        (&others, "exclusive"),
        (&others, "shared"),
    ] {
        let (file, mode) = disk_request;
        let refused = machine.acquire_files(&[(file, mode)]).await.unwrap_err();
        assert_refused(&refused, INTERACTIVE, "org.vmlockd1.acquire-by-name needs");
        // Together with a permitted disk, neither is locked.
        let both = [(&mine as _, "shared"), (file as _, mode)];
        machine.acquire_files(&both).await.unwrap_err();
        assert_free(&fixture.dir().join("mine"));
        before.still(mode).await;
    }
    let locks = machine.acquire_files(&[(&mine, "shared")]).await.unwrap();
    ForeignHolder::try_once(fixture.dir().join("mine"), LockType::Ofd, false).unwrap();
    ForeignHolder::try_once(fixture.dir().join("mine"), LockType::Ofd, true).unwrap_err();
    machine.release(&locks).await.unwrap();
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn an_upgrade_needs_the_same_proof_as_an_exclusive_lock() {
    let fixture = with_polkit("").await;
    let bus = fixture.connection_as(NOBODY).await;
    let disk = fixture.raw_of(NOBODY, "disk");
    let (read, write) = (File::open(&disk).unwrap(), read_write(&disk));
    let machine = TestVm::open(&bus, "web1").await;
    let locks = machine.acquire_files(&[(&read, "shared")]).await.unwrap();
    let its = lock(&bus, &locks[0]).await;
    for proof in [none(), option("file", Fd::from(&read))] {
        let refused = its.convert("exclusive", proof).await.unwrap_err().into();
        assert_refused(&refused, INTERACTIVE, "org.vmlockd1.acquire-by-name needs");
        assert_eq!(its.mode().await.unwrap(), "shared");
    }
    its.convert("exclusive", option("file", Fd::from(&write))).await.unwrap();
    assert_eq!(its.mode().await.unwrap(), "exclusive");
    ForeignHolder::try_once(&disk, LockType::Ofd, false).unwrap_err();
}

#[tokio::test]
async fn every_user_may_read_the_state() {
    let fixture = with_polkit("").await;
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let disk = fixture.raw_of(ROOT, "disk");
    let uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
    let machine = TestVm::open_with(&root, uuid, "web1", none()).await.unwrap();
    machine.owner.bind_pid(std::process::id(), none()).await.unwrap();
    let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();

    let manager = manager(&user).await;
    let name = |row: &vmlockd::client::Row| String::try_from(row["name"].try_clone().unwrap());
    assert_eq!(name(&manager.list_owners(none()).await.unwrap()[0]).unwrap(), "web1");
    assert_eq!(name(&manager.list_locks(none()).await.unwrap()[0]).unwrap(), "web1");
    assert_eq!(manager.list_waiting(none()).await.unwrap(), []);
    assert_eq!(manager.n_locks().await.unwrap(), 1);
    assert_eq!(manager.get_owner(uuid).await.unwrap(), machine.path());
    assert_eq!(manager.get_owner_by_pid(std::process::id()).await.unwrap(), machine.path());
    let held = manager.find_holders(disk.to_str().unwrap(), none()).await.unwrap();
    assert_eq!(name(&held[0]).unwrap(), "web1");
    // A user that has it open, in any mode, may know its holder.
    fs::set_permissions(&disk, Permissions::from_mode(0o644)).unwrap();
    let file = File::open(&disk).unwrap();
    let held = manager.find_holders_of_file(Fd::from(&file), none()).await.unwrap();
    assert_eq!(name(&held[0]).unwrap(), "web1");

    let owner = crate::dbus_client::owner(&user, machine.path()).await;
    assert_eq!(owner.locks().await.unwrap(), locks);
    assert_eq!(lock(&user, &locks[0]).await.owner().await.unwrap(), machine.path());
    let objects = ObjectManagerProxy::new(&user, "org.vmlockd1", "/org/vmlockd1").await.unwrap();
    let objects = objects.get_managed_objects().await.unwrap();
    assert!(objects.contains_key(&machine.path()) && objects.contains_key(&locks[0]));
    assert_eq!(log_level(&user).await, "info");
}

async fn log_level(bus: &Connection) -> String {
    let path = "/org/freedesktop/LogControl1";
    let log = zbus::Proxy::new(bus, "org.vmlockd1", path, "org.freedesktop.LogControl1").await;
    log.unwrap().get_property("LogLevel").await.unwrap()
}

/// When a link was followed last.
fn followed(link: &Path) -> (i64, i64) {
    let seen = fs::symlink_metadata(link).unwrap();
    (seen.atime(), seen.atime_nsec())
}

#[tokio::test]
async fn a_symlink_reveals_nothing_to_an_unauthorized_caller() {
    let fixture = with_polkit("").await;
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let _noting = TestMount::noting_access(&fixture.dir().join("links"));
    let (disk, link) = (fixture.raw_of(ROOT, "disk"), fixture.dir().join("links/link"));
    symlink(&disk, &link).unwrap();
    let machine = TestVm::open(&root, "web1").await;
    machine.acquire(&[exclusive(&disk)]).await.unwrap();

    let before = followed(&link);
    let asks = async |bus| {
        let manager = manager(bus).await;
        let found = manager.find_holders(link.to_str().unwrap(), none());
        within("an answer", found).await.unwrap()
    };
    let opened = OpenWatch::watch([disk.as_path()]);
    assert_eq!(asks(&user).await, []);
    assert_eq!(followed(&link), before, "nobody has followed it");
    assert!(!opened.any());
    assert_eq!(asks(&root).await.len(), 1);
    assert_ne!(followed(&link), before, "following it is seen");
}

#[tokio::test]
async fn an_unauthorized_caller_learns_nothing_about_files() {
    let fixture = with_polkit("").await;
    let bus = fixture.connection_as(NOBODY).await;
    let dir = fixture.dir();
    fixture.raw_of(ROOT, "there");
    fs::create_dir(dir.join("folder")).unwrap();
    symlink(dir.join("there"), dir.join("link")).unwrap();
    symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
    let machine = TestVm::open(&bus, "web1").await;
    let manager = manager(&bus).await;
    let before = Untouched::so_far(&fixture).await;
    let mut said: Vec<Refused> = Vec::new();
    for name in ["there", "missing", "folder", "link", "dangling", "there/below"] {
        let disk = dir.join(name);
        let name = disk.to_str().unwrap();
        let acquired = machine.acquire(&[shared(&disk)]).await.unwrap_err();
        let resolved = manager.resolve(name, none()).await.unwrap_err().into();
        for (refused, deed) in [(acquired, "lock"), (resolved, "look up")] {
            let Refused { name: error, message } = refused;
            let its = format!("cannot {deed} disk {name} by name");
            assert!(message.starts_with(&its), "{message}");
            said.push(Refused { name: error, message: message.replace(&its, "") });
        }
        assert_eq!(manager.find_holders(name, none()).await.unwrap(), []);
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:#?}");
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn root_needs_no_polkit() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(NOBODY, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();
    let process = fixture.command_as(NOBODY, "sleep").arg("1000").spawn().unwrap();
    machine.owner.bind_pid(process.id().unwrap(), none()).await.unwrap();
    manager(&bus).await.reload(none()).await.unwrap();
    machine.release(&locks).await.unwrap();
    let user = manager(&fixture.connection_as(NOBODY).await).await;
    let refused = user.open_owner("", "web1", none()).await.unwrap_err().into();
    assert_refused(&refused, DENIED, "polkit is not running or not installed; only root");
}

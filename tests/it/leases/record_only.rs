//! Disks that are only recorded, where the configuration says so: seen, and in nobody's way.

use std::fs;

use zbus::Fd;

use super::{Scenario, refused};
use crate::dbus_client::{TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::rpc::{Owner, Rpc};
use crate::fixture::user::NOBODY;
use crate::fixture::{Fixture, ForeignHolder, LockType, polkit, within};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};
use crate::snapshot::{Listed, text};

const INVALID: &str = "DBus.Error.InvalidArgs";
const RECORDED: &str = "auto_disk_leases = 0\nrequire_lease_for_disks = 0\n";

async fn scenario() -> Scenario {
    Scenario::within(Fixture::builder().config(RECORDED).start().await).await
}

#[tokio::test]
async fn it_is_listed_and_conflicts_with_nothing() {
    let scenario = scenario().await;
    let (bus, disk) = (&scenario.bus, scenario.fixture.raw_of(0, "disk"));
    let before = Untouched::so_far(&scenario.fixture).await;
    let (web1, web2) = (TestVm::open(bus, "web1").await, TestVm::open(bus, "web2").await);
    let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    assert_eq!(web1.acquire(&[exclusive(&disk)]).await.unwrap(), locks);
    web2.acquire(&[shared(&disk)]).await.unwrap();
    let file = fs::File::options().read(true).write(true).open(&disk).unwrap();
    let by_file = web2.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    assert_eq!(by_file, web2.locks().await, "of one owner there is one record");
    assert_free(&disk);

    let its = lock(bus, &locks[0]).await;
    let (mode, lock_file) = (its.mode().await.unwrap(), its.lock_file().await.unwrap());
    assert_eq!((mode.as_str(), lock_file.as_str()), ("none", ""));
    assert!(its.verified().await.unwrap());
    for mode in ["shared", "exclusive"] {
        let words = "is only recorded for this owner, not locked; release lock";
        assert_refused(&refused(its.convert(mode, none()).await), INVALID, words);
    }
    let words = "neither 'exclusive' nor 'shared'";
    assert_refused(&refused(its.convert("none", none()).await), INVALID, words);
    let resolved = scenario.manager.resolve(disk.to_str().unwrap(), none()).await.unwrap();
    assert_eq!(text(&resolved, "lock-file"), "");

    let name = disk.to_str().unwrap();
    let told = async || {
        let holders = scenario.manager.find_holders(name, none()).await.unwrap();
        let told = holders.iter().map(|row| (text(row, "kind"), text(row, "mode")));
        told.collect::<Vec<_>>()
    };
    let owner = || ("owner".to_owned(), "none".to_owned());
    assert_eq!(told().await, [owner(), owner()]);
    // Others lock what they like, and are found beside.
    let foreign_holder = ForeignHolder::hold(&disk, LockType::Posix, true).unwrap();
    let process = ("process".to_owned(), "exclusive".to_owned());
    assert_eq!(told().await, [owner(), owner(), process]);
    TestVm::open(bus, "web3").await.acquire(&[exclusive(&disk)]).await.unwrap();
    foreign_holder.release();

    web1.release(&locks).await.unwrap();
    assert_eq!(web1.locks().await, []);
    web2.owner.close(none()).await.unwrap();
    drop((web1, web2));
    let gone = async { while !Listed::by(bus).await.owners.is_empty() {} };
    within("the machines are gone", gone).await;
    before.still("what was recorded").await;
}

#[tokio::test]
async fn it_survives_the_service_a_suspension_and_a_transfer() {
    let scenario = scenario().await;
    let (bus, disk) = (&scenario.bus, scenario.fixture.raw_of(0, "disk"));
    let (lease, name) = (scenario.lease("web").await, disk.to_str().unwrap());
    let web1 = TestVm::open(bus, "web1").await;
    let disk_request = [exclusive(&disk), (lease.as_str(), "exclusive")];
    web1.acquire(&disk_request).await.unwrap();
    let again = async || {
        scenario.fixture.daemon().kill9().await;
        scenario.fixture.daemon().start_again().await;
        let verified = async || {
            let rows = scenario.manager.list_locks(none()).await.unwrap();
            rows.iter().all(|row| bool::try_from(&row["verified"]).unwrap())
        };
        within("all locks verified", async { while !verified().await {} }).await;
    };
    let before = Listed::by(bus).await;
    again().await;
    assert_eq!(Listed::by(bus).await, before);
    assert_free(&disk);
    ForeignHolder::try_once(scenario.file("web"), LockType::Ofd, true).unwrap_err();

    web1.owner.suspend(none()).await.unwrap();
    let remembered =
        [(name.to_owned(), "none".to_owned()), (lease.clone(), "exclusive".to_owned())];
    assert_eq!(web1.owner.suspended().await.unwrap(), remembered);
    again().await;
    assert_eq!(web1.owner.suspended().await.unwrap(), remembered);
    let locks = web1.owner.resume(none()).await.unwrap();
    assert_eq!(lock(bus, &locks[0]).await.mode().await.unwrap(), "none");

    let target = TestVm::open(bus, "web1").await;
    let token = web1.owner.offer(none()).await.unwrap();
    let locks = target.owner.adopt(&token, none()).await.unwrap();
    assert_eq!(lock(bus, &locks[0]).await.mode().await.unwrap(), "none");
    again().await;
    assert_eq!(target.locks().await, locks);
    target.owner.close(none()).await.unwrap();
    let rows = Listed::by(bus).await;
    assert!(rows.on(name).all(|row| row["mode"] == "none") && rows.locks.len() == 2);
    web1.owner.close(none()).await.unwrap();
    assert!(Listed::by(bus).await.locks.is_empty());
    again().await;
    assert_free(&scenario.file("web"));
}

#[tokio::test]
async fn recording_needs_the_same_authorization_as_locking() {
    let choice = polkit::Choice::Real { rules: String::new() };
    let fixture = Fixture::builder().config(RECORDED).polkit(choice).start().await;
    let (user, disk) = (fixture.connection_as(NOBODY).await, fixture.raw_of(0, "disk"));
    let mine = fixture.raw_of(NOBODY, "mine");
    let web1 = TestVm::open(&user, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    let read = fs::File::open(&disk).unwrap();
    for refused in [
        web1.acquire(&[exclusive(&disk)]).await.unwrap_err(),
        web1.acquire_files(&[(&read, "shared")]).await.unwrap_err(),
    ] {
        let error = "DBus.Error.InteractiveAuthorizationRequired";
        assert_refused(&refused, error, "org.vmlockd1.acquire-by-name");
    }
    before.still("refused").await;
    let file = fs::File::options().read(true).write(true).open(&mine).unwrap();
    web1.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    assert_free(&mine);
}

#[tokio::test]
async fn changed_settings_apply_to_later_requests() {
    let fixture = Fixture::builder().folder("locks").start().await;
    let scenario = Scenario::within(fixture).await;
    let Scenario { fixture, bus, manager, .. } = &scenario;
    let (one, two) = (fixture.raw_of(0, "one"), fixture.raw_of(0, "two"));
    let (web1, web2) = (TestVm::open(bus, "web1").await, TestVm::open(bus, "web2").await);
    let locks = web1.acquire(&[exclusive(&one)]).await.unwrap();
    fixture.configure(&format!("{RECORDED}file_lockspace_dir = \"@DIR@/locks\"\n"));
    manager.reload(none()).await.unwrap();
    // A locked disk stays locked, and is not downgraded to a record.
    assert_eq!(web1.acquire(&[exclusive(&one)]).await.unwrap(), locks);
    web1.acquire(&[exclusive(&two)]).await.unwrap();
    assert_eq!(fs::read_dir(fixture.dir().join("locks")).unwrap().count(), 0);
    ForeignHolder::try_once(&one, LockType::Ofd, true).unwrap_err();
    assert_free(&two);

    fixture.configure("");
    manager.reload(none()).await.unwrap();
    // A recorded disk is not locked, not even by a repeated request.
    let again = web1.acquire(&[exclusive(&two)]).await.unwrap_err();
    assert_refused(&again, INVALID, "two is only recorded for this owner, not locked; release");
    let disk_request = [exclusive(&two)];
    let theirs = web2.owner.acquire(&disk_request, option("timeout-usec", 1_u64)).await.unwrap();
    ForeignHolder::try_once(&two, LockType::Ofd, true).unwrap_err();
    let recorded = web1.locks().await.pop().unwrap();
    web1.release(&[recorded]).await.unwrap();
    let held = web1.acquire(&[exclusive(&two)]).await.unwrap_err();
    assert_refused(&held, "LockHeld", "is locked exclusively by VM \"web2\"");
    web2.release(&theirs).await.unwrap();
    web1.acquire(&[exclusive(&two)]).await.unwrap();
}

#[tokio::test]
async fn libvirt_goes_by_its_own_settings() {
    let config = "auto_disk_leases = 0\nvirtlockd_socket = \"@DIR@/virtlockd-sock\"\n";
    let scenario = Scenario::within(Fixture::builder().config(config).start().await).await;
    let disk = scenario.fixture.raw_of(0, "disk");
    let mut rpc = Rpc::connect(&scenario.fixture.dir().join("virtlockd-sock")).unwrap();
    rpc.register(&Owner::new("web1", 1, std::process::id())).granted();
    rpc.acquire("", disk.to_str().unwrap(), 0).granted();
    ForeignHolder::try_once(&disk, LockType::Posix, true).unwrap_err();
    let rows = Listed::by(&scenario.bus).await;
    let modes: Vec<_> = rows.on(disk.to_str().unwrap()).map(|row| row["mode"].clone()).collect();
    assert_eq!(modes, ["exclusive"]);
    // An owner whose disks are only recorded gets them nevertheless: its lease excludes others.
    let (name, web2) = (scenario.lease("web").await, TestVm::open(&scenario.bus, "web2").await);
    web2.acquire(&[exclusive(&disk), (&name, "exclusive")]).await.unwrap();
    let other = TestVm::open(&scenario.bus, "web3").await;
    let held = other.acquire(&[exclusive(&disk), (&name, "exclusive")]).await.unwrap_err();
    assert_refused(&held, "LockHeld", "lease ");
    assert_eq!(other.locks().await, []);
}

#[tokio::test]
async fn writing_needs_a_lease_where_configured() {
    for config in ["require_lease_for_disks = 1\n", "auto_disk_leases = false\n"] {
        let scenario = Scenario::within(Fixture::builder().config(config).start().await).await;
        let Scenario { fixture, bus, .. } = &scenario;
        let (disk, base) = (fixture.raw_of(0, "disk"), fixture.raw_of(0, "base"));
        let (name, other) = (scenario.lease("web").await, scenario.lease("other").await);
        let web1 = TestVm::open(bus, "web1").await;
        let words = format!("cannot lock disk {} for writing without a lease", disk.display());
        let web2 = TestVm::open(bus, "web2").await;
        web2.acquire(&[(&other, "exclusive")]).await.unwrap();
        let file = fs::File::options().read(true).write(true).open(&disk).unwrap();
        let before = Untouched::so_far(fixture).await;
        let resources = option("resources", vec![exclusive(&disk)]);
        for refused in [
            web1.acquire(&[shared(&base), exclusive(&disk)]).await.unwrap_err(),
            web1.acquire_files(&[(&file, "exclusive")]).await.unwrap_err(),
            TestVm::open_with(bus, "", "web3", resources).await.unwrap_err(),
        ] {
            assert_refused(&refused, "LeaseRequired", &words);
            before.still(config).await;
        }
        // For reading none is needed.
        let read = web1.acquire(&[shared(&base)]).await.unwrap();
        if config.starts_with("require") {
            let its = lock(bus, &read[0]).await;
            let refused = refused(its.convert("exclusive", none()).await);
            assert_refused(&refused, "LeaseRequired", "base for writing without a lease");
        }
        // In one call, in whatever order and mode, and beside descriptors.
        let files = [(Fd::from(&file), "exclusive")];
        let disk_request = [(name.as_str(), "shared")];
        let locks = web1.owner.acquire_with_files(&disk_request, &files, none()).await.unwrap();
        web1.release(&locks[1..]).await.unwrap();
        let locks = [locks[0].clone()];
        let again = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        if config.starts_with("require") {
            lock(bus, &read[0]).await.convert("exclusive", none()).await.unwrap();
        }
        // A released lease does not count.
        web1.release(&locks).await.unwrap();
        web1.release(&again).await.unwrap();
        let refused = web1.acquire(&[exclusive(&disk)]).await.unwrap_err();
        assert_refused(&refused, "LeaseRequired", &words);
        web1.acquire(&[exclusive(&disk), (&name, "exclusive")]).await.unwrap();
        // A resumed lock was requested before.
        web1.owner.suspend(none()).await.unwrap();
        web1.owner.resume(none()).await.unwrap();
        assert_eq!(manager(bus).await.n_locks().await.unwrap(), 4);
    }
}

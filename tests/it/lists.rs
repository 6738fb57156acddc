//! Lists of many locks: in proportion, bounded, page by page, and beside the work of others.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use vmlockd::client::{Options, Row, lists};
use zbus::fdo::ObjectManagerProxy;
use zbus::{Connection, ObjectPath, Variant};

use crate::dbus_client::{Refused, TestVm, exclusive, manager, option};
use crate::fixture::user::{NOBODY, ROOT};
use crate::fixture::{Broker, Fixture, within};
use crate::methods::none;

const TOO_MUCH: &str = "DBus.Error.LimitsExceeded";
const INVALID: &str = "DBus.Error.InvalidArgs";

/// Makes empty disks with names that are this long at least.
fn disks(fixture: &Fixture, prefix: &str, count: usize, length: usize) -> Vec<PathBuf> {
    let mut folder = fixture.dir().join(prefix);
    while folder.as_os_str().len() + 240 < length {
        folder.push("f".repeat(100));
    }
    fs::create_dir_all(&folder).unwrap();
    let disk = |n: usize| {
        let left = length.saturating_sub(folder.as_os_str().len() + 1).max(6);
        let path = folder.join(format!("{n:0left$}"));
        File::create_new(&path).unwrap();
        path
    };
    (0..count).map(disk).collect()
}

/// Locks disks, as many in one call as one call may have.
async fn lock_all(machine: &TestVm, disks: &[PathBuf]) {
    for disks in disks.chunks(64) {
        let disk_request: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
        machine.acquire(&disk_request).await.unwrap();
    }
}

fn generation(row: &Row) -> u64 {
    u64::try_from(row["generation"].try_clone().unwrap()).unwrap()
}

fn text(row: &Row, key: &str) -> String {
    match &*row[key] {
        Variant::Str(text) => text.to_string(),
        Variant::ObjectPath(path) => path.to_string(),
        other => panic!("{key}: {other:?}"),
    }
}

/// The resident memory of the service in KiB: the most since the last call, and now.
fn memory(fixture: &Fixture) -> (u64, u64) {
    let pid = fixture.daemon().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let found = (value("VmHWM:"), value("VmRSS:"));
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    found
}

async fn objects(bus: &Connection) -> ObjectManagerProxy<'static> {
    let objects = ObjectManagerProxy::builder(bus).destination("org.vmlockd1");
    objects.path("/org/vmlockd1").build().await.unwrap()
}

/// How much memory the service takes, in KiB, to answer every list once.
async fn growth(fixture: &Fixture, bus: &Connection) -> u64 {
    let (manager, objects) = (manager(bus).await, objects(bus).await);
    memory(fixture);
    let (_, before) = memory(fixture);
    // That it is too much for one reply is an answer, too.
    let _ = manager.list_locks(none()).await;
    let _ = manager.list_owners(none()).await;
    let _ = objects.get_managed_objects().await;
    lists::locks(&manager, Options::new()).await.unwrap();
    memory(fixture).0 - before
}

#[tokio::test]
async fn the_memory_for_a_list_grows_in_proportion_to_the_locks() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    // All of one owner: a row must not cost what all its locks cost.
    let machine = TestVm::open(&bus, "web1").await;
    let disks = disks(&fixture, "disks", 8000, 0);
    let mut grown = Vec::new();
    for part in [&disks[..2000], &disks[2000..]] {
        lock_all(&machine, part).await;
        grown.push(growth(&fixture, &bus).await);
    }
    // Rows of some 700 bytes, twice in memory; with the square of the locks it would be 1.3 GiB.
    assert!(grown[1] < 32 * 1024, "{grown:?} KiB for 2,000 and 8,000 locks");
}

#[tokio::test]
async fn pages_have_each_lock_once_while_others_come_and_go() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let manager = manager(&bus).await;
    let (stays, comes) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let (these, those) = (disks(&fixture, "stay", 300, 0), disks(&fixture, "come", 64, 0));
    let disk_request: Vec<_> = those.iter().map(|disk| exclusive(disk)).collect();
    let mut expected = BTreeSet::new();
    for part in these.chunks(60) {
        lock_all(&stays, part).await;
        expected.extend(stays.locks().await.iter().map(ToString::to_string));
        let passing = comes.acquire(&disk_request).await.unwrap();
        comes.release(&passing).await.unwrap();
    }
    let (mut seen, mut after, mut pages) = (Vec::new(), 0, 0);
    loop {
        let page = Options::from([("limit", 7_u32.into()), ("after", Variant::from(after))]);
        let rows = manager.list_locks(page).await.unwrap();
        let Some(last) = rows.last() else { break };
        assert!(rows.len() <= 7);
        after = generation(last);
        seen.extend(rows.iter().map(|row| text(row, "lock")));
        pages += 1;
        // The last entry of a page is gone before the next page, too.
        if pages % 5 == 0 {
            let passing = comes.acquire(&disk_request).await.unwrap();
            comes.release(&passing).await.unwrap();
        }
    }
    assert!(seen.is_sorted_by_key(|path| path.rsplit('/').next().unwrap().parse::<u64>().unwrap()));
    let once: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(once.len(), seen.len(), "a lock is on two pages");
    assert!(expected.is_subset(&once), "{:?} are on none", expected.difference(&once));
    // By its path as well, and the last page is empty.
    let last = ObjectPath::try_from(seen.last().unwrap().as_str()).unwrap();
    assert_eq!(manager.list_locks(option("after", last)).await.unwrap(), []);
    assert_eq!(manager.list_locks(option("after", u64::MAX)).await.unwrap(), []);
}

#[tokio::test]
async fn owners_and_waiting_requests_come_in_pages_too() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let manager = manager(&bus).await;
    let disks = disks(&fixture, "disks", 2, 0);
    let mut machines = Vec::new();
    for n in 0..5 {
        machines.push(TestVm::open(&bus, &format!("vm{n}")).await);
    }
    let holder = &machines[0];
    lock_all(holder, &disks).await;
    let (mut owners, mut after) = (Vec::new(), none());
    loop {
        after.insert("limit", 2_u32.into());
        let rows = manager.list_owners(after).await.unwrap();
        let Some(last) = rows.last() else { break };
        assert!(rows.len() <= 2);
        after = option("after", ObjectPath::try_from(text(last, "owner")).unwrap());
        owners.extend(rows.iter().map(|row| text(row, "owner")));
    }
    let expected: BTreeSet<_> = machines.iter().map(|vm| vm.path().to_string()).collect();
    assert_eq!(owners.len(), 5);
    assert_eq!(owners.into_iter().collect::<BTreeSet<_>>(), expected);
    // Three requests for two disks each.
    let disk_request: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
    let wait = async |machine: &TestVm| {
        machine.owner.acquire(&disk_request, option("timeout-usec", u64::MAX)).await.unwrap_err();
    };
    let look = async {
        within("three requests", async { while manager.n_waiting().await.unwrap() < 3 {} }).await;
        let first = manager.list_waiting(option("limit", 1_u32)).await.unwrap();
        assert_eq!(first.len(), 2, "a request is on one page: {first:?}");
        let ticket = Variant::from(first[0]["ticket"].try_clone().unwrap());
        assert_eq!(manager.list_waiting(option("after", ticket)).await.unwrap().len(), 4);
        let all = lists::waiting(&manager, Options::new()).await.unwrap();
        assert_eq!(all.len(), 6);
        let path = machines[2].path();
        let own = manager.list_waiting(option("owner", path.as_ref())).await.unwrap();
        assert!(own.len() == 2 && own.iter().all(|row| text(row, "owner") == path.as_str()));
        let none_such = manager.list_waiting(option("resource", "/dev/null")).await.unwrap();
        assert_eq!(none_such, []);
        let name = disks[1].to_str().unwrap();
        assert_eq!(manager.list_waiting(option("resource", name)).await.unwrap().len(), 6);
        for machine in &machines[1..4] {
            machine.owner.cancel(none()).await.unwrap();
        }
    };
    let [_, one, two, three, _] = &machines[..] else { unreachable!() };
    tokio::join!(wait(one), wait(two), wait(three), look);
}

#[tokio::test]
async fn locks_are_listed_by_owner_by_name_and_as_suspended() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let manager = manager(&bus).await;
    let (one, two) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let disks = disks(&fixture, "disks", 4, 0);
    lock_all(&one, &disks[..3]).await;
    lock_all(&two, &disks[3..]).await;
    let (one_path, name) = (one.path(), disks[3].to_str().unwrap());
    let own = manager.list_locks(option("owner", one_path.as_ref())).await.unwrap();
    assert!(own.len() == 3 && own.iter().all(|row| text(row, "name") == "web1"));
    let named = manager.list_locks(option("resource", name)).await.unwrap();
    assert!(named.len() == 1 && text(&named[0], "name") == "web2");
    let both = Options::from([("resource", name.into()), ("owner", one_path.as_ref().into())]);
    assert_eq!(manager.list_locks(both).await.unwrap(), []);
    one.owner.suspend(none()).await.unwrap();
    let suspended = |limit: u32, after: u64| {
        Options::from([
            ("owner", Variant::from(one.path().into_inner())),
            ("suspended", true.into()),
            ("limit", limit.into()),
            ("after", after.into()),
        ])
    };
    let first = manager.list_locks(suspended(2, 0)).await.unwrap();
    let second = manager.list_locks(suspended(2, generation(&first[1]))).await.unwrap();
    assert_eq!((first.len(), second.len()), (2, 1));
    let names: Vec<_> = first.iter().chain(&second).map(|row| text(row, "resource")).collect();
    let expected: Vec<_> = disks[..3].iter().map(|disk| disk.display().to_string()).collect();
    assert_eq!(names, expected);
    assert!(!first[0].contains_key("lock"));
    assert_eq!(manager.list_locks(option("owner", one_path.as_ref())).await.unwrap(), []);
    let refused = Refused::from(manager.list_locks(option("suspended", true)).await.unwrap_err());
    assert_eq!(refused.name, INVALID);
    assert!(refused.message.contains("'owner'"), "{}", refused.message);
}

#[tokio::test]
async fn a_list_too_large_for_one_reply_is_refused_with_advice() {
    for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
        let fixture = Fixture::builder().broker(broker).start().await;
        let bus = fixture.connection().await;
        let manager = manager(&bus).await;
        let machine = TestVm::open(&bus, "web1").await;
        // The longest names there are: 1,200 locks would be a reply of 10 MiB.
        let disks = disks(&fixture, "long", 1200, 3900);
        lock_all(&machine, &disks).await;
        let objects = objects(&bus).await;
        let answers: [zbus::Error; 2] = [
            manager.list_locks(none()).await.unwrap_err(),
            objects.get_managed_objects().await.unwrap_err().into(),
        ];
        for answer in answers {
            let refused = Refused::from(answer);
            assert_eq!(refused.name, TOO_MUCH);
            for word in ["8 MiB", "'limit'", "'after'"] {
                assert!(refused.message.contains(word), "{}", refused.message);
            }
        }
        // A page is cut to what fits, and is never empty before the end.
        let page = manager.list_locks(option("after", 0_u64)).await.unwrap();
        assert!((500..1200).contains(&page.len()), "{}", page.len());
        assert_eq!(lists::locks(&manager, Options::new()).await.unwrap().len(), 1200);
        let list = fixture.run("vmlockctl", &["--json", "list"]).await.ok();
        assert_eq!(list.matches("\"generation\"").count(), 1200);
        fixture.run("vmlockctl", &["lockspace", "list"]).await.ok();
        // As a property, which is read on the event loop, it may be less still.
        machine.owner.suspend(none()).await.unwrap();
        let refused = Refused::from(machine.owner.suspended().await.unwrap_err());
        assert_eq!(refused.name, TOO_MUCH);
        assert!(refused.message.contains("'suspended'"), "{}", refused.message);
        let path = machine.path();
        let filter = Options::from([("owner", path.as_ref().into()), ("suspended", true.into())]);
        assert_eq!(lists::locks(&manager, filter).await.unwrap().len(), 1200);
    }
}

#[tokio::test]
async fn lists_of_one_user_delay_no_other_user() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web1").await;
    lock_all(&machine, &disks(&fixture, "disks", 2000, 0)).await;
    let user = fixture.connection_as(NOBODY).await;
    let theirs = manager(&user).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut asked = JoinSet::new();
    for _ in 0..16 {
        let (theirs, answered) = (theirs.clone(), Arc::clone(&answered));
        asked.spawn(async move {
            assert!(theirs.list_locks(none()).await.unwrap().len() >= 2000);
            answered.fetch_add(1, Ordering::Relaxed);
        });
    }
    // By the first answer, all sixteen are with the service.
    within("a list", asked.join_next()).await.unwrap().unwrap();
    machine.acquire(&[exclusive(&fixture.raw_of(ROOT, "disk"))]).await.unwrap();
    let before = answered.load(Ordering::Relaxed);
    assert!(before < 8, "root was served after {before} lists of another user");
    while let Some(list) = within("a list", asked.join_next()).await {
        list.unwrap();
    }
}

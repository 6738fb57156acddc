//! Waiting does not affect other users: the quota of one user, and the remaining capacity.

use std::fs::File;
use std::path::Path;

use zbus::{Connection, Fd};

use super::{LONG, until_waiting};
use crate::dbus_client::{Refused, TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::user::{DAEMON, NOBODY, ROOT};
use crate::fixture::{Answer, Fixture, polkit, within};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};

/// A fixture where polkit allows everything, and root has a disk.
async fn fixture_with(limits: &str) -> Fixture {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock);
    let fixture = fixture.config(&format!("[limits]\n{limits}")).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    fixture
}

type Waits = tokio::task::JoinHandle<Result<Vec<zbus::OwnedObjectPath>, Refused>>;

fn ask(machine: &TestVm, disk: &Path, timeout: u64) -> Waits {
    let (owner, disk) = (machine.owner.clone(), disk.to_path_buf());
    tokio::spawn(async move {
        Ok(owner.acquire(&[exclusive(&disk)], option("timeout-usec", timeout)).await?)
    })
}

#[tokio::test]
async fn the_queue_is_limited_per_user_and_in_total() {
    let fixture = fixture_with("waiters_per_user = 3\nwaiters_total = 5\n").await;
    let disk = fixture.raw_of(ROOT, "disk");
    let own = fixture.raw_of(NOBODY, "own");
    let root = fixture.connection().await;
    let roots = TestVm::open(&root, "roots").await;
    let held = roots.acquire(&[exclusive(&disk)]).await.unwrap();
    let (user, other) = (fixture.connection_as(NOBODY).await, fixture.connection_as(DAEMON).await);
    let (first, theirs) =
        (TestVm::open(&user, "first").await, TestVm::open(&other, "theirs").await);
    let locks = first.acquire(&[exclusive(&own)]).await.unwrap();
    let mut waits = Vec::new();
    for n in 1..=3 {
        waits.push(ask(&first, &disk, LONG));
        until_waiting(&root, n).await;
    }
    let before = Untouched::so_far(&fixture).await;
    let refused = ask(&first, &disk, LONG).await.unwrap().unwrap_err();
    let words = format!("too many waiting requests: the limit is 3 for uid {NOBODY}");
    assert_refused(&refused, "DBus.Error.LimitsExceeded", &words);
    // Without waiting it is the disk that is the reason.
    let refused = first.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "roots");
    // A call that opens an owner with disks counts too, and opens none when refused.
    let mut options = option("resources", vec![(disk.to_str().unwrap(), "exclusive")]);
    options.extend(option("timeout-usec", LONG));
    let refused = TestVm::open_with(&user, "", "more", options).await.unwrap_err();
    assert_refused(&refused, "DBus.Error.LimitsExceeded", &words);
    before.still("too many").await;

    waits.push(ask(&theirs, &disk, LONG));
    until_waiting(&root, 4).await;
    waits.push(ask(&theirs, &disk, LONG));
    until_waiting(&root, 5).await;
    let third = TestVm::open(&root, "third").await;
    for machine in [&theirs, &third] {
        let refused = ask(machine, &disk, LONG).await.unwrap().unwrap_err();
        let words = "too many waiting requests: the limit is 5 in total";
        assert_refused(&refused, "DBus.Error.LimitsExceeded", words);
    }

    // Whose waits are all used up can still do all else.
    within("a release", first.release(&locks)).await.unwrap();
    assert_free(&own);
    first.acquire(&[exclusive(&own)]).await.unwrap();
    within("a list", manager(&user).await.list_waiting(none())).await.unwrap();
    first.owner.cancel(none()).await.unwrap();
    for wait in waits.drain(..3) {
        let told = within("its end", wait).await.unwrap().unwrap_err();
        assert_refused(&told, "WaitCancelled", "cancelled");
    }
    // Released places are available again.
    waits.push(ask(&third, &disk, LONG));
    until_waiting(&root, 3).await;
    roots.release(&held).await.unwrap();
    let first = within("the other's turn", waits.remove(0)).await.unwrap().unwrap();
    // The other's second request was answered with the lock that its owner had by then.
    assert_eq!(within("the same lock", waits.remove(0)).await.unwrap().unwrap(), first);
    theirs.release(&first).await.unwrap();
    within("root's turn", waits.remove(0)).await.unwrap().unwrap();
}

/// All ways to wait without success, except a crash, in one fixture.
async fn timed_out(fixture: &Fixture, bus: &Connection, disk: &Path, web2: &TestVm, weak: &str) {
    let timeout = || option("timeout-usec", 1_u64);
    let resources = || option("resources", vec![(disk.to_str().unwrap(), "exclusive")]);
    let manager = manager(bus).await;
    let file = File::options().read(true).write(true).open(disk).unwrap();
    let files = [(Fd::from(&file), "shared")];
    let both = || {
        let mut options = resources();
        options.extend(timeout());
        options
    };
    let weak = lock(bus, &zbus::ObjectPath::try_from(weak.to_owned()).unwrap().into()).await;
    let mut refusals: Vec<(&str, Refused)> = Vec::new();
    let mut note = |what, refused: zbus::Error| refusals.push((what, refused.into()));
    note("Acquire", web2.owner.acquire(&[exclusive(disk)], timeout()).await.unwrap_err());
    let with_files = web2.owner.acquire_with_files(&[], &files, timeout()).await;
    note("AcquireWithFiles", with_files.unwrap_err());
    note("OpenOwner", manager.open_owner("", "late", both()).await.map(drop).unwrap_err());
    let registered = manager.register_owner("", "late", 0, both()).await;
    note("RegisterOwner", registered.map(drop).unwrap_err());
    note("Convert", weak.convert("exclusive", timeout()).await.unwrap_err());
    for (what, refused) in refusals {
        assert_eq!(refused.name, "WaitTimedOut", "{what}: {}", refused.message);
        assert!(refused.message.contains("web1"), "{what}: {}", refused.message);
    }
    until_waiting(&fixture.connection().await, 0).await;
}

#[tokio::test]
async fn a_wait_that_times_out_leaves_nothing_behind() {
    for config in ["", "file_lockspace_dir = \"@DIR@/locks\"\n"] {
        let fixture = Fixture::builder().folder("locks").config(config).start().await;
        let bus = fixture.connection().await;
        let (disk, both) = (fixture.raw_of(0, "disk"), fixture.raw_of(0, "both"));
        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
        web1.acquire(&[exclusive(&disk), shared(&both)]).await.unwrap();
        let weak = web2.acquire(&[shared(&both)]).await.unwrap();
        let before = Untouched::so_far(&fixture).await;
        for _ in 0..20 {
            timed_out(&fixture, &bus, &disk, &web2, weak[0].as_str()).await;
        }
        before.still("waited in vain").await;
        // Nor do waiters that disconnect.
        for _ in 0..20 {
            let gone = fixture.connection().await;
            let owner = crate::dbus_client::owner(&gone, web2.path()).await;
            let name = disk.clone();
            let call = tokio::spawn(async move {
                owner.acquire(&[exclusive(&name)], option("timeout-usec", LONG)).await
            });
            until_waiting(&bus, 1).await;
            gone.close().await.unwrap();
            within("its end", call).await.unwrap().unwrap_err();
            until_waiting(&bus, 0).await;
        }
        before.and_it_goes_on().await;
    }
}

//! More than is allowed, of one user or of all.

use std::fs::File;
use std::path::PathBuf;

use crate::dbus_client::{AsFdDyn, Refused, TestVm, exclusive, manager, option, shared};
use crate::fixture::user::{DAEMON, NOBODY, ROOT};
use crate::fixture::{Answer, Fixture, ForeignHolder, LockType, polkit, within};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};

const TOO_MUCH: &str = "DBus.Error.LimitsExceeded";

/// Starts a fixture in which polkit allows everything, so that only limits restrict the caller.
async fn fixture_with(limits: &str) -> Fixture {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock);
    let fixture = fixture.config(&format!("[limits]\n{limits}")).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    fixture
}

fn disks_of(fixture: &Fixture, uid: u32, count: usize) -> Vec<PathBuf> {
    (0..count).map(|n| fixture.raw_of(uid, &format!("{uid}-{n}"))).collect()
}

fn open_all(disks: &[PathBuf]) -> Vec<File> {
    let open = |disk| File::options().read(true).write(true).open(disk).unwrap();
    disks.iter().map(open).collect()
}

#[tokio::test]
async fn each_user_has_a_quota_and_root_has_none() {
    let limits = "owners_per_user = 2\nlocks_per_user = 2\n\
                  lifelines_per_user = 3\nprocesses_per_user = 1";
    let fixture = fixture_with(limits).await;
    let process = fixture.command_as(NOBODY, "sleep").arg("1000").spawn().unwrap();
    let pid = process.id().unwrap();
    for uid in [NOBODY, DAEMON, ROOT] {
        let bus = fixture.connection_as(uid).await;
        let disks = disks_of(&fixture, uid, 4);
        let files = open_all(&disks);
        let file = |n: usize| (&files[n] as &dyn AsFdDyn, "exclusive");
        let (one, two) = (TestVm::open(&bus, "one").await, TestVm::open(&bus, "two").await);
        let lifeline = one.owner.new_lifeline(none()).await.unwrap();
        one.owner.bind_pid(pid, none()).await.unwrap();
        let locks = two.acquire_files(&[file(0), file(1)]).await.unwrap();
        let before = Untouched::so_far(&fixture).await;

        let third = TestVm::open_with(&bus, "", "three", none()).await.map(drop);
        let held = one.owner.new_lifeline(none()).await.map(drop).map_err(Refused::from);
        let bound = two.owner.bind_pid(pid, none()).await.map_err(Refused::from);
        let locked = one.acquire_files(&[file(2)]).await.map(drop);
        if uid == ROOT {
            for outcome in [third, held, bound, locked] {
                outcome.unwrap();
            }
            continue;
        }
        for (refused, what) in [
            (third, "too many owners: the limit is 2"),
            (held, "too many lifelines: the limit is 3"),
            (bound, "too many processes: the limit is 1"),
            (locked, "too many locks: the limit is 2"),
        ] {
            assert_refused(&refused.unwrap_err(), TOO_MUCH, &format!("{what} for uid {uid}"));
        }
        before.still("too much").await;
        // Released capacity is available again, but no more than that.
        two.release(&locks).await.unwrap();
        let several = [file(1), file(2), file(3)];
        assert_refused(&one.acquire_files(&several).await.unwrap_err(), TOO_MUCH, "locks");
        for disk in &disks {
            assert_free(disk);
        }
        one.acquire_files(&several[1..]).await.unwrap();
        two.owner.close(none()).await.unwrap();
        TestVm::open(&bus, "three").await;
        drop(lifeline);
    }
}

#[tokio::test]
async fn the_size_of_calls_and_the_number_of_locks_are_bounded_for_root_too() {
    let fixture = fixture_with("resources_per_call = 3\nlocks_total = 5").await;
    let bus = fixture.connection().await;
    let disks = disks_of(&fixture, ROOT, 6);
    let disk_request: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
    let files = open_all(&disks);
    let machine = TestVm::open(&bus, "web1").await;
    let locks = machine.acquire(&disk_request[..2]).await.unwrap();
    let before = Untouched::so_far(&fixture).await;
    let words = "4 resources in one call; the limit is 3";
    let two_open =
        [(zbus::Fd::from(&files[0]), "exclusive"), (zbus::Fd::from(&files[1]), "shared")];
    for refused in [
        machine.acquire(&disk_request[2..6]).await.unwrap_err(),
        machine
            .owner
            .acquire_with_files(&disk_request[2..4], &two_open, none())
            .await
            .unwrap_err()
            .into(),
        TestVm::open_with(&bus, "", "web2", option("resources", disk_request[2..6].to_vec()))
            .await
            .unwrap_err(),
    ] {
        assert_refused(&refused, TOO_MUCH, words);
        before.still(words).await;
    }
    machine.acquire(&disk_request[2..4]).await.unwrap();
    let refused = machine.acquire(&disk_request[4..6]).await.unwrap_err();
    assert_refused(&refused, TOO_MUCH, "too many locks: the limit is 5 in total");
    assert_free(&disks[4]);
    machine.release(&locks).await.unwrap();
    machine.acquire(&disk_request[4..6]).await.unwrap();
    assert_eq!(manager(&bus).await.n_locks().await.unwrap(), 4);
}

#[tokio::test]
async fn other_users_leave_an_eighth_of_all_locks_to_root() {
    let fixture = fixture_with("locks_total = 16\nlocks_per_user = 100").await;
    let mut held = Vec::new();
    for (uid, most, words) in [
        (NOBODY, 8, "too many locks: the limit is 8 for uid 65534"),
        (DAEMON, 6, "too many locks: the limit is 14 in total, without the reserve for root"),
    ] {
        let machine = TestVm::open(&fixture.connection_as(uid).await, "vm").await;
        let files = open_all(&disks_of(&fixture, uid, most + 1));
        let of = |file| (file as &dyn AsFdDyn, "exclusive");
        for file in &files[..most] {
            machine.acquire_files(&[of(file)]).await.unwrap();
        }
        let refused = machine.acquire_files(&[of(&files[most])]).await.unwrap_err();
        assert_refused(&refused, TOO_MUCH, words);
        held.push(machine);
    }
    let disks = disks_of(&fixture, ROOT, 3);
    let root = TestVm::open(&fixture.connection().await, "root").await;
    let disk_request: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
    root.acquire(&disk_request[..2]).await.unwrap();
    let refused = root.acquire(&disk_request[2..]).await.unwrap_err();
    assert_refused(&refused, TOO_MUCH, "too many locks: the limit is 16 in total");
}

#[tokio::test]
async fn other_users_leave_an_eighth_of_all_owners_and_anchors_to_root() {
    for (limits, words, total) in [
        ("owners_total = 16", "too many owners: the limit is", 16),
        ("anchors_total = 16", "too many anchors: the limit is", 16),
    ] {
        let fixture = fixture_with(&format!("{limits}\nowners_per_user = 100")).await;
        let mut open = Vec::new();
        for (uid, most, whose) in [
            (NOBODY, 8, "8 for uid 65534"),
            (DAEMON, 6, "14 in total, without the reserve for root"),
            (ROOT, total - 14, "16 in total"),
        ] {
            let bus = fixture.connection_as(uid).await;
            for n in 0..most {
                // Each owner comes with a lifeline.
                open.push(TestVm::open(&bus, &format!("{uid}-{n}")).await);
            }
            let refused = TestVm::open_with(&bus, "", "more", none()).await.unwrap_err();
            assert_refused(&refused, TOO_MUCH, &format!("{words} {whose}"));
        }
        // Ended owners are not counted.
        for machine in open.drain(..) {
            machine.owner.close(none()).await.unwrap();
        }
        TestVm::open(&fixture.connection_as(NOBODY).await, "again").await;
    }
}

#[tokio::test]
async fn a_thousand_disks_in_one_call_are_too_many_unless_allowed() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disks = disks_of(&fixture, ROOT, 1000);
    let disk_request: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
    let machine = TestVm::open(&bus, "web1").await;
    let before = Untouched::so_far(&fixture).await;
    let refused = machine.acquire(&disk_request).await.unwrap_err();
    assert_refused(&refused, TOO_MUCH, "1000 resources in one call; the limit is 64");
    before.still("a thousand").await;

    fixture.configure("[limits]\nresources_per_call = 1000");
    manager(&bus).await.reload(none()).await.unwrap();
    // All or nothing, also if the last of them is the one that can't be had.
    let foreign_holder = ForeignHolder::hold(&disks[999], LockType::Ofd, true).unwrap();
    let refused = within("an answer", machine.acquire(&disk_request)).await.unwrap_err();
    assert_refused(&refused, "LockHeldElsewhere", &format!("pid {}", foreign_holder.pid()));
    assert_free(&disks[0]);
    assert_free(&disks[998]);
    before.still("all but one").await;
    drop(foreign_holder);
    let locks = within("an answer", machine.acquire(&disk_request)).await.unwrap();
    assert_eq!(locks.len(), 1000);
    assert_eq!(machine.locks().await, locks);
    within("an answer", machine.release(&locks)).await.unwrap();
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_caller_over_its_limit_of_open_calls_delays_only_itself() {
    let fixture = fixture_with("calls_per_user = 2").await;
    let mock = fixture.polkit().mock();
    let decide = |call: &crate::fixture::Call| match call.details["vm"].as_str() {
        "slow" => Answer::Hang,
        _ => Answer::Allow,
    };
    mock.decide(decide);
    let user = fixture.connection_as(NOBODY).await;
    let manager = manager(&user).await;
    let before = Untouched::so_far(&fixture).await;
    let open = || async { manager.open_owner("", "slow", none()).await };
    let meanwhile = async {
        let (first, second) = (mock.next_call().await, mock.next_call().await);
        let words = format!("too many calls at one time: the limit is 2 for uid {NOBODY}");
        // From another connection it is the same user.
        let again = crate::dbus_client::manager(&fixture.connection_as(NOBODY).await).await;
        for manager in [&manager, &again] {
            let refused = manager.list_locks(none()).await.unwrap_err().into();
            assert_refused(&refused, TOO_MUCH, &words);
        }
        let other = fixture.connection_as(DAEMON).await;
        TestVm::open(&other, "quick").await.owner.close(none()).await.unwrap();
        let disk = fixture.raw_of(ROOT, "disk");
        let root = TestVm::open(&fixture.connection().await, "roots").await;
        root.acquire(&[shared(&disk)]).await.unwrap();
        root.owner.close(none()).await.unwrap();
        std::fs::remove_file(disk).unwrap();
        assert!(mock.release(&first, Answer::Deny) && mock.release(&second, Answer::Deny));
    };
    let (one, two, ()) = tokio::join!(open(), open(), meanwhile);
    assert!(one.is_err() && two.is_err());
    assert_eq!(manager.list_locks(none()).await.unwrap(), []);
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_caller_over_its_rate_delays_only_itself() {
    let fixture = fixture_with("calls_per_second = 10").await;
    let user = manager(&fixture.connection_as(NOBODY).await).await;
    let other = manager(&fixture.connection_as(DAEMON).await).await;
    let root = manager(&fixture.connection().await).await;
    let before = Untouched::so_far(&fixture).await;
    let mut refused = Vec::new();
    for n in 0..100 {
        // Ten at once, and one more for each tenth of a second that all of them take.
        match user.list_owners(none()).await {
            Ok(_) => {}
            Err(error) if n >= 10 => refused.push(Refused::from(error)),
            Err(error) => panic!("call {n}: {error}"),
        }
    }
    assert!(!refused.is_empty());
    for refused in refused {
        let words = format!("too many calls: the limit is 10 in a second for uid {NOBODY}");
        assert_refused(&refused, TOO_MUCH, &words);
    }
    other.list_owners(none()).await.unwrap();
    for _ in 0..100 {
        root.list_owners(none()).await.unwrap();
    }
    before.and_it_goes_on().await;
}

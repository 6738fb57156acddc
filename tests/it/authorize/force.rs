//! The locks of a living VM are broken only by a caller that requests it explicitly and is
//! authorized.

use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use vmlockd::client::Options;
use zbus::{Connection, OwnedObjectPath};

use super::{DENIED, read_write, with_mock};
use crate::dbus_client::{AsFdDyn, TestVm, lock, manager, option, owner};
use crate::fixture::user::{DAEMON, NOBODY, ROOT};
use crate::fixture::{Answer, Call, Fixture, ForeignHolder, LockType, within};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};

const BREAKS: &str = "org.vmlockd1.release-foreign";

/// Opens a VM of a user that locks disks of the user.
async fn machine_of(
    fixture: &Fixture,
    uid: u32,
    disks: &[&Path],
) -> (TestVm, Vec<OwnedObjectPath>) {
    let machine = TestVm::open(&fixture.connection_as(uid).await, "web1").await;
    let files: Vec<_> = disks.iter().map(|disk| read_write(disk)).collect();
    let disk_request: Vec<_> =
        files.iter().map(|file| (file as &dyn AsFdDyn, "exclusive")).collect();
    let locks = machine.acquire_files(&disk_request).await.unwrap();
    (machine, locks)
}

/// The reasons of releases, as they come.
async fn reasons(bus: &Connection) -> impl AsyncFnMut() -> String {
    let mut released = manager(bus).await.receive_lock_released().await.unwrap();
    async move || {
        let told = within("a release", released.next()).await.unwrap();
        told.args().unwrap().reason().clone()
    }
}

fn force() -> Options<'static> {
    option("force", true)
}

#[tokio::test]
async fn the_lock_of_a_living_vm_is_released_by_force_only() {
    // Root, which needs no authorization, and a user that polkit authorizes.
    for breaker in [ROOT, DAEMON] {
        let fixture = with_mock().await;
        fixture.polkit().mock().answer(Answer::Allow);
        let bus = fixture.connection_as(breaker).await;
        let disks = ["one", "two", "three"].map(|name| fixture.raw_of(NOBODY, name));
        let all = disks.each_ref().map(PathBuf::as_path);
        let (machine, locks) = machine_of(&fixture, NOBODY, &all).await;
        let theirs = owner(&bus, machine.path()).await;
        let one = lock(&bus, &locks[0]).await;
        let before = Untouched::so_far(&fixture).await;
        for gentle in [none, || option("force", false)] {
            for refused in [
                one.release(gentle()).await.unwrap_err(),
                theirs.release(&locks[1..2], gentle()).await.unwrap_err(),
                theirs.close(gentle()).await.unwrap_err(),
            ] {
                let words = format!("VM \"web1\" of uid {NOBODY}, which is alive; set 'force'");
                assert_refused(&refused.into(), DENIED, &words);
            }
            before.still("without force").await;
        }
        let mut reason = reasons(&bus).await;
        one.release(force()).await.unwrap();
        assert_eq!(reason().await, "forced");
        assert_free(&disks[0]);
        theirs.release(&locks[1..2], force()).await.unwrap();
        assert_eq!(reason().await, "forced");
        assert_free(&disks[1]);
        ForeignHolder::try_once(&disks[2], LockType::Ofd, true).unwrap_err();
        theirs.close(force()).await.unwrap();
        assert_eq!(reason().await, "forced");
        assert_free(&disks[2]);
        assert_eq!(manager(&bus).await.n_owners().await.unwrap(), 0);
        let log = fixture.daemon().complete_log().await;
        let warned = log.lines().filter(|line| {
            line.contains(" WARN ") && line.contains(&format!("caller.uid={breaker} "))
        });
        assert_eq!(warned.count(), 3, "{log}");
    }
}

#[tokio::test]
async fn force_is_not_needed_for_own_locks() {
    let fixture = with_mock().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let bus = fixture.connection_as(NOBODY).await;
    let (one, two) = (fixture.raw_of(NOBODY, "one"), fixture.raw_of(NOBODY, "two"));
    let (machine, locks) = machine_of(&fixture, NOBODY, &[&one, &two]).await;
    let mut reason = reasons(&bus).await;
    machine.owner.release(&locks[..1], force()).await.unwrap();
    assert_eq!(reason().await, "released");
    machine.owner.close(force()).await.unwrap();
    assert_eq!(reason().await, "owner-closed");
}

#[tokio::test]
async fn each_lock_is_checked_by_polkit_and_one_denial_is_enough() {
    let fixture = with_mock().await;
    let mock = fixture.polkit().mock();
    mock.answer(Answer::Allow);
    let (one, two) = (fixture.raw_of(ROOT, "one"), fixture.raw_of(ROOT, "two"));
    let (machine, locks) = machine_of(&fixture, ROOT, &[&one, &two]).await;
    let bus = fixture.connection_as(NOBODY).await;
    let theirs = owner(&bus, machine.path()).await;
    mock.decide(|call: &Call| {
        let second = call.details.get("resource").is_some_and(|name| name.ends_with("two"));
        if second { Answer::Deny } else { Answer::Allow }
    });
    let before = Untouched::so_far(&fixture).await;
    for refused in [
        theirs.release(&locks, force()).await.unwrap_err(),
        theirs.close(force()).await.unwrap_err(),
    ] {
        assert_refused(&refused.into(), DENIED, BREAKS);
        before.still("half a yes").await;
    }
    let about: Vec<_> = mock.seen().iter().map(|call| call.details["resource"].clone()).collect();
    let each = [one.to_str().unwrap(), two.to_str().unwrap()];
    assert_eq!(about, [each, each].concat());
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn locks_acquired_during_a_dialog_are_not_released_with_the_rest() {
    for held_before in [0, 1] {
        let fixture = with_mock().await;
        let mock = fixture.polkit().mock();
        mock.answer(Answer::Hang);
        let (one, two) = (fixture.raw_of(ROOT, "one"), fixture.raw_of(ROOT, "two"));
        let disks = [one.as_path()];
        let (machine, _) = machine_of(&fixture, ROOT, &disks[..held_before]).await;
        let bus = fixture.connection_as(NOBODY).await;
        let theirs = owner(&bus, machine.path()).await;
        let meanwhile = async {
            let question = mock.next_call().await;
            machine.acquire_files(&[(&read_write(&two), "exclusive")]).await.unwrap();
            // Consent to what was asked about, and to nothing else.
            mock.answer(Answer::Deny);
            assert!(mock.release(&question, Answer::Allow));
        };
        let (closed, ()) = tokio::join!(theirs.close(force()), meanwhile);
        assert_refused(&closed.unwrap_err().into(), DENIED, BREAKS);
        assert_eq!(machine.locks().await.len(), held_before + 1);
        ForeignHolder::try_once(&two, LockType::Ofd, true).unwrap_err();
    }
}

//! The service aborts while an owner is suspended, and while it is resumed.

use super::peer::{By, Peer};
use super::scenario::{Holder, Point, Scenario};
use crate::host::soak::retry::ask;
use crate::methods::none;

const SUSPENDS: [&[Point]; 12] = [
    &[("release-decided", 1)],
    &[("release-noted", 1)],
    &[("release-unlocked", 1)],
    &[("release-unlocked", 2)],
    &[("release-unlocked", 3)],
    &[("release-unparked", 1)],
    &[("release-unparked", 3)],
    &[("release-forgotten", 1)],
    &[("release-done", 1)],
    &[("release-noted", 1), ("restore-read", 1)],
    &[("release-unlocked", 2), ("restore-written", 1)],
    &[("release-unparked", 2), ("restore-parked", 1)],
];

const RESUMES: [&[Point]; 10] = [
    &[("grant-reserved", 1)],
    &[("grant-noted", 1)],
    &[("grant-locked", 1)],
    &[("grant-parked", 1)],
    &[("grant-held", 1)],
    &[("grant-committed", 1)],
    &[("grant-noted", 1), ("restore-written", 1)],
    &[("grant-parked", 1), ("restore-read", 1)],
    &[("grant-held", 1), ("restore-written", 1)],
    &[("grant-committed", 1), ("restore-parked", 1)],
];

async fn resume(scenario: &Scenario, owner: &Peer) {
    assert_eq!(owner.owner.resume(none()).await.unwrap().len(), scenario.passing().len());
    assert_eq!(scenario.settled(owner, None).await, Holder::Source);
}

async fn rounds(hashed: bool) {
    let Some(scenario) = Scenario::set_up(hashed, "").await else { return };
    let (owner, files) = scenario.source(By::Process).await;
    // The one that is shared: its byte is never free.
    let lock_prober = scenario.lock_prober(&files[1..2]);
    for n in 0..SUSPENDS.len() {
        let (there, back) = (SUSPENDS[n], RESUMES[n % RESUMES.len()]);
        println!("{there:?}, then {back:?}");
        let suspend = async {
            let _ = ask("Suspend", owner.owner.suspend(none())).await;
        };
        scenario.crash_in(there, suspend).await;
        let whose = scenario.settled(&owner, None).await;
        let undone = there[0].0 == "release-decided";
        assert_eq!(whose, if undone { Holder::Source } else { Holder::Nobodys });
        if !undone {
            // At once, whatever is still to be cleared away.
            resume(&scenario, &owner).await;
        }
        owner.owner.suspend(none()).await.unwrap();
        assert_eq!(scenario.settled(&owner, None).await, Holder::Nobodys);
        scenario.free(&scenario.alone(), 1).await;

        let resuming = async {
            let _ = ask("Resume", owner.owner.resume(none())).await;
        };
        scenario.crash_in(back, resuming).await;
        let whose = scenario.settled(&owner, None).await;
        let done = back[0].0 == "grant-committed";
        assert_eq!(whose, if done { Holder::Source } else { Holder::Nobodys });
        if !done {
            resume(&scenario, &owner).await;
        }
    }
    // A suspended owner that never resumes: others get its disks, and nothing of it is left.
    let suspend = async {
        let _ = ask("Suspend", owner.owner.suspend(none())).await;
    };
    scenario.crash_in(&[("release-noted", 1)], suspend).await;
    scenario.free(&scenario.alone(), 1).await;
    let other = Peer::open(&scenario, "other", By::Lifeline).await;
    let taken = scenario.alone().map(|disk| (disk.to_owned(), "exclusive"));
    scenario.take(&other, &taken).await;
    other.owner.close(none()).await.unwrap();
    owner.owner.close(none()).await.unwrap();
    scenario.owners(1).await;
    scenario.free(&scenario.alone(), 1).await;
    lock_prober.stop().were_refused();
    scenario.lost_nothing().await;
}

#[tokio::test]
async fn an_owner_is_suspended_or_runs_wherever_the_service_aborts() {
    rounds(false).await;
}

#[tokio::test]
async fn it_is_so_where_lock_files_are_hashed() {
    rounds(true).await;
}

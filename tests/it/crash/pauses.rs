//! The service aborts while an owner is suspended, and while it is resumed.

use super::scene::{Point, Scene, Whose};
use super::side::{By, Side};
use crate::methods::none;
use crate::soak::answer::ask;

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

async fn resume(scene: &Scene, owner: &Side) {
    assert_eq!(owner.owner.resume(none()).await.unwrap().len(), scene.passing().len());
    assert_eq!(scene.settled(owner, None).await, Whose::Source);
}

async fn rounds(hashed: bool) {
    let Some(scene) = Scene::set(hashed, "").await else { return };
    let (owner, files) = scene.source(By::Process).await;
    // The one that is shared: its byte is never free.
    let intruder = scene.intruder(&files[1..2]);
    for n in 0..SUSPENDS.len() {
        let (there, back) = (SUSPENDS[n], RESUMES[n % RESUMES.len()]);
        println!("{there:?}, then {back:?}");
        let suspend = async {
            let _ = ask("Suspend", owner.owner.suspend(none())).await;
        };
        scene.crash_in(there, suspend).await;
        let whose = scene.settled(&owner, None).await;
        let undone = there[0].0 == "release-decided";
        assert_eq!(whose, if undone { Whose::Source } else { Whose::Nobodys });
        if !undone {
            // At once, whatever is still to be cleared away.
            resume(&scene, &owner).await;
        }
        owner.owner.suspend(none()).await.unwrap();
        assert_eq!(scene.settled(&owner, None).await, Whose::Nobodys);
        scene.free(&scene.alone(), 1).await;

        let resuming = async {
            let _ = ask("Resume", owner.owner.resume(none())).await;
        };
        scene.crash_in(back, resuming).await;
        let whose = scene.settled(&owner, None).await;
        let done = back[0].0 == "grant-committed";
        assert_eq!(whose, if done { Whose::Source } else { Whose::Nobodys });
        if !done {
            resume(&scene, &owner).await;
        }
    }
    // Suspended, and nobody comes back: others get what it had, and nothing of it is left.
    let suspend = async {
        let _ = ask("Suspend", owner.owner.suspend(none())).await;
    };
    scene.crash_in(&[("release-noted", 1)], suspend).await;
    scene.free(&scene.alone(), 1).await;
    let other = Side::open(&scene, "other", By::Lifeline).await;
    let taken = scene.alone().map(|disk| (disk.to_owned(), "exclusive"));
    scene.take(&other, &taken).await;
    other.owner.close(none()).await.unwrap();
    owner.owner.close(none()).await.unwrap();
    scene.owners(1).await;
    scene.free(&scene.alone(), 1).await;
    intruder.stop().were_refused();
    scene.lost_nothing().await;
}

#[tokio::test]
async fn an_owner_is_suspended_or_runs_wherever_the_service_aborts() {
    rounds(false).await;
}

#[tokio::test]
async fn it_is_so_where_lock_files_are_hashed() {
    rounds(true).await;
}

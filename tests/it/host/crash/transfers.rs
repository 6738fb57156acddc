//! The service aborts in the middle of a hand-over, and of a giving back.

use super::peer::{ALL_ANCHORS, By, Peer};
use super::scenario::{Holder, Point, Scenario};
use crate::fixture::{LockType, attempt};
use crate::host::soak::retry::ask;
use crate::methods::none;
use crate::refused_requests::assert_refused;

/// The steps of a hand-over, and after some of them a second crash while the service comes back.
pub(super) const THERE: [&[Point]; 11] = [
    &[("move-decided", 1)],
    &[("move-noted", 1)],
    &[("move-marked", 1)],
    &[("move-done", 1)],
    &[("move-noted", 1), ("restore-read", 1)],
    &[("move-noted", 1), ("restore-written", 1)],
    &[("move-marked", 1), ("restore-written", 1)],
    &[("move-done", 1), ("restore-parked", 1)],
    &[("restore-read", 1)],
    &[("restore-written", 1)],
    &[("restore-parked", 1), ("restore-served", 1)],
];

/// The steps of giving back, as the end of a target that has a disk of its own passes them.
pub(super) const BACK: [&[Point]; 14] = [
    &[("release-decided", 1)],
    &[("move-decided", 1)],
    &[("move-noted", 1)],
    &[("move-marked", 1)],
    &[("move-done", 1)],
    &[("release-noted", 1)],
    &[("release-unlocked", 1)],
    &[("release-unparked", 1)],
    &[("release-forgotten", 1)],
    &[("release-done", 1)],
    &[("release-decided", 1), ("restore-written", 1)],
    &[("move-noted", 1), ("restore-read", 1)],
    &[("move-marked", 1), ("restore-parked", 1)],
    &[("move-decided", 1), ("move-noted", 1)],
];

/// A hand-over to a machine that ends later in this way; a crash in both.
pub(super) async fn round(
    scenario: &Scenario,
    source: &Peer,
    own: &str,
    way: By,
    crashes: [&[Point]; 2],
) {
    let [there, back] = crashes;
    println!("{there:?}, then {back:?} when the target ends by {way:?}");
    let target = Peer::open(scenario, "target", way).await;
    scenario.take(&target, &[(own.to_owned(), "exclusive")]).await;
    let token = source.offer().await;
    let adopt = async {
        // Usually there is no reply.
        let _ = ask("Adopt", target.owner.adopt(&token, none())).await;
    };
    scenario.crash_in(there, adopt).await;
    let whose = scenario.settled(source, Some(&target)).await;
    let undone = there[0].0 == "move-decided";
    assert_eq!(whose, if undone { Holder::Source } else { Holder::Target });
    let again = target.owner.adopt(&token, none()).await;
    if undone {
        assert_eq!(again.unwrap().len(), scenario.passing().len());
    } else {
        assert_refused(&again.unwrap_err().into(), "NoSuchOffer", "the offer does not exist");
    }
    assert_eq!(scenario.settled(source, Some(&target)).await, Holder::Target);
    // The source of a transfer cannot take the locks back by itself.
    let early = source.owner.resume(none()).await.unwrap_err();
    assert_refused(&early.into(), "LockHeld", "target");

    if way == By::Close {
        let close = async {
            let _ = ask("Close", target.owner.close(none())).await;
        };
        scenario.crash_in(back, close).await;
        if back[0].0 == "release-decided" {
            // No reply was sent, and the journal has no entry yet.
            assert_eq!(scenario.settled(source, Some(&target)).await, Holder::Target);
            target.owner.close(none()).await.unwrap();
        }
        scenario.back(source).await;
        target.die(scenario).await;
    } else {
        scenario.crash_in(back, target.die(scenario)).await;
        scenario.back(source).await;
    }
    scenario.owners(2).await;
    scenario.free(&[own], scenario.passing().len()).await;
}

async fn rounds(hashed: bool, all: bool) {
    let Some(scenario) = Scenario::set_up(hashed, "").await else { return };
    let own = scenario.disk("own.img");
    let (source, files) = scenario.source(By::Process).await;
    let lock_prober = scenario.lock_prober(&files);
    let rounds = if all { BACK.len() * ALL_ANCHORS.len() } else { BACK.len() };
    for n in 0..rounds {
        let (there, back) = (THERE[n % THERE.len()], BACK[n % BACK.len()]);
        // Not in step with the points, of which there are another number.
        let way = ALL_ANCHORS[(n + n / BACK.len()) % ALL_ANCHORS.len()];
        round(&scenario, &source, &own, way, [there, back]).await;
    }
    for file in &files {
        attempt(file, LockType::Ofd).unwrap_err();
    }
    lock_prober.stop().were_refused();
    source.owner.close(none()).await.unwrap();
    scenario.owners(1).await;
    scenario.free(&scenario.alone(), 1).await;
    scenario.lost_nothing().await;
}

#[tokio::test]
async fn one_side_has_the_disks_wherever_the_service_aborts() {
    rounds(false, true).await;
}

#[tokio::test]
async fn one_side_has_the_lock_files_wherever_the_service_aborts() {
    rounds(true, false).await;
}

#[tokio::test]
async fn an_offer_without_a_reply_can_be_withdrawn() {
    let Some(scenario) = Scenario::set_up(false, "").await else { return };
    let (source, _) = scenario.source(By::Process).await;
    let target = Peer::open(&scenario, "target", By::Lifeline).await;
    let offer = async {
        let _ = ask("Offer", source.owner.offer(none())).await;
    };
    scenario.crash_in(&[("offer-noted", 1)], offer).await;
    assert_eq!(scenario.settled(&source, Some(&target)).await, Holder::Source);
    let again = source.owner.offer(none()).await.unwrap_err();
    assert_refused(&again.into(), "DBus.Error.InvalidArgs", "already");
    source.owner.cancel(none()).await.unwrap();
    let token = source.offer().await;
    target.owner.adopt(&token, none()).await.unwrap();
    assert_eq!(scenario.settled(&source, Some(&target)).await, Holder::Target);
}

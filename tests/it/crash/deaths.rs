//! The machines die, one or both, between any two steps; the service lives, or is dead as well.

use std::time::Duration;

use super::scene::{Scene, Whose};
use super::side::{By, Side};
use crate::machine::option;
use crate::methods::none;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    Source,
    Target,
    Both,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    Offer,
    Adopt,
}

/// The deaths, of which the service hears at once, or when it is there again.
async fn die(scene: &Scene, sides: Vec<Side>, unheard: bool) {
    let die = async {
        for side in sides {
            side.die(scene).await;
        }
    };
    if unheard { scene.kill(die).await } else { die.await }
}

async fn round(scene: &Scene, dies: Dies, after: After, unheard: bool, by: By) {
    println!("{dies:?} after {after:?}, by {by:?}, unheard: {unheard}");
    // Who was opened first ends first where both ended unheard.
    let target = Side::open(scene, "target", by).await;
    let (source, files) = scene.source(by).await;
    let intruder = scene.intruder(&files);
    let token = if after == After::Nothing { None } else { Some(source.offer().await) };
    if let (After::Adopt, Some(token)) = (after, &token) {
        target.owner.adopt(token, none()).await.unwrap();
    }
    match dies {
        Dies::Source => {
            die(scene, vec![source], unheard).await;
            match (after, token) {
                (After::Offer, Some(token)) => {
                    // It stays for whoever comes with the token.
                    let locks = target.owner.adopt(&token, none()).await.unwrap();
                    assert_eq!(locks.len(), scene.passing().len());
                    scene.owners(2).await;
                    assert_eq!(scene.whose(&target, None).await, Whose::Source);
                    intruder.stop().were_refused();
                }
                (After::Adopt, _) => {
                    scene.owners(2).await;
                    assert_eq!(scene.whose(&target, None).await, Whose::Source);
                    assert_eq!(target.state().await, "running");
                    intruder.stop().were_refused();
                }
                _ => {
                    drop(intruder);
                    scene.owners(2).await;
                }
            }
            die(scene, vec![target], !unheard).await;
        }
        Dies::Target => {
            die(scene, vec![target], unheard).await;
            scene.owners(2).await;
            scene.back(&source).await;
            if let (After::Offer, Some(token)) = (after, token) {
                let other = Side::open(scene, "other", by).await;
                other.owner.adopt(&token, none()).await.unwrap();
                assert_eq!(scene.settled(&source, Some(&other)).await, Whose::Target);
                other.die(scene).await;
                scene.owners(2).await;
                scene.back(&source).await;
            }
            intruder.stop().were_refused();
            die(scene, vec![source], !unheard).await;
        }
        Dies::Both => {
            die(scene, vec![source, target], unheard).await;
            if let (After::Offer, Some(token)) = (after, token) {
                let other = Side::open(scene, "other", by).await;
                other.owner.adopt(&token, none()).await.unwrap();
                scene.owners(2).await;
                assert_eq!(scene.whose(&other, None).await, Whose::Source);
                intruder.stop().were_refused();
                other.die(scene).await;
            } else {
                drop(intruder);
            }
        }
    }
    scene.owners(1).await;
    scene.free(&scene.alone(), 1).await;
}

#[tokio::test]
async fn one_side_has_the_disks_whoever_dies() {
    let Some(scene) = Scene::set(false, "").await else { return };
    for unheard in [false, true] {
        for after in [After::Nothing, After::Offer, After::Adopt] {
            for dies in [Dies::Source, Dies::Target, Dies::Both] {
                let by = if (dies == Dies::Both) ^ unheard { By::Lifeline } else { By::Process };
                round(&scene, dies, after, unheard, by).await;
            }
        }
    }
    scene.lost_nothing().await;
}

/// The target ends last, and has given back what nobody is there to have, when the service dies a
/// second time.
#[tokio::test]
async fn both_die_unheard_and_the_service_dies_again_while_it_gives_back() {
    let Some(scene) = Scene::set(false, "").await else { return };
    for point in ["move-decided", "move-noted", "move-marked"] {
        let mut crashed = false;
        for _ in 0..10 {
            let target = Side::open(&scene, "target", By::Process).await;
            let (source, _) = scene.source(By::Process).await;
            let token = source.offer().await;
            target.owner.adopt(&token, none()).await.unwrap();
            let die = async {
                target.die(&scene).await;
                source.die(&scene).await;
            };
            crashed |= scene.crash_after((point, 1), die).await;
            scene.owners(1).await;
            scene.free(&scene.alone(), 1).await;
            if crashed {
                break;
            }
        }
        assert!(crashed, "the source always ended first");
    }
    scene.lost_nothing().await;
}

#[tokio::test]
async fn what_nobody_comes_for_is_free_when_the_offer_ends() {
    let Some(scene) = Scene::set(false, "").await else { return };
    for unheard in [false, true] {
        let (source, _) = scene.source(By::Process).await;
        let brief = u64::try_from(Duration::from_millis(300).as_micros()).unwrap();
        source.owner.offer(option("timeout-usec", brief)).await.unwrap();
        die(&scene, vec![source], unheard).await;
        scene.owners(1).await;
        scene.free(&scene.alone(), 1).await;
        // Who lives keeps what nobody came for.
        let (source, files) = scene.source(By::Process).await;
        let intruder = scene.intruder(&files);
        let token = source.owner.offer(option("timeout-usec", brief)).await.unwrap();
        if unheard {
            scene.kill(async {}).await;
        }
        let ended = async { while source.owner.cancel(none()).await.is_err() {} };
        crate::house::within("a cancelled offer", ended).await;
        let target = Side::open(&scene, "target", By::Lifeline).await;
        target.owner.adopt(&token, none()).await.unwrap_err();
        assert_eq!(scene.settled(&source, Some(&target)).await, Whose::Source);
        intruder.stop().were_refused();
        source.owner.close(none()).await.unwrap();
        target.owner.close(none()).await.unwrap();
        scene.owners(1).await;
    }
    scene.lost_nothing().await;
}

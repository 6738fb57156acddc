//! Hand-overs where nothing outlives a crash but records, and where another program takes the
//! service's place.

use nix::sys::signal::Signal;
use tokio::task::yield_now;

use super::moves::{BACK, THERE, round};
use super::scene::{Scene, Whose};
use super::side::{By, Side, WAYS};
use crate::methods::none;
use crate::soak::answer::ask;

/// Nobody keeps a byte while the service is dead, but the records tell whose it is: it takes it again.
#[tokio::test]
async fn one_side_has_the_disks_where_there_are_records_alone() {
    let Some(scene) = Scene::set(false, "FileDescriptorStoreMax=0\n").await else { return };
    let own = scene.disk("own.img");
    let (source, _) = scene.source(By::Process).await;
    for n in 0..BACK.len() {
        let way = WAYS[n % 2];
        round(&scene, &source, &own, way, [THERE[n % THERE.len()], BACK[n]]).await;
        scene.verified().await;
    }
    source.owner.close(none()).await.unwrap();
    scene.owners(1).await;
    scene.free(&scene.alone(), 1).await;
    scene.lost_nothing().await;
}

/// Another program takes the place of the service while disks pass.
#[tokio::test]
async fn one_side_has_the_disks_whenever_the_service_is_replaced() {
    let Some(scene) = Scene::set(false, "").await else { return };
    let (source, files) = scene.source(By::Process).await;
    let intruder = scene.intruder(&files);
    for (n, way) in WAYS.into_iter().cycle().take(9).enumerate() {
        let target = Side::open(&scene, "target", way).await;
        let token = source.offer().await;
        let main = scene.main().await;
        let mut watch = scene.host.watch().await;
        let first = watch.owned().await;
        let mut adopted = 0;
        let adopt = async {
            for _ in 0..n {
                yield_now().await;
            }
            while let Err(trouble) = ask("Adopt", target.owner.adopt(&token, none())).await {
                adopted += 1;
                if trouble.is("NoSuchOffer") {
                    assert!(adopted > 1, "the token was never used");
                    return;
                }
            }
        };
        main.signal(Signal::SIGUSR1);
        adopt.await;
        watch.owned_by_other_than(&first).await;
        assert_eq!(scene.settled(&source, Some(&target)).await, Whose::Target);
        let first = watch.owned().await;
        if way == By::Close {
            main.signal(Signal::SIGUSR1);
            while ask("Close", target.owner.close(none())).await.is_err() {
                if scene.whose(&source, None).await == Whose::Source {
                    break;
                }
            }
        } else {
            target.die(&scene).await;
            main.signal(Signal::SIGUSR1);
        }
        watch.owned_by_other_than(&first).await;
        scene.back(&source).await;
        scene.owners(2).await;
    }
    intruder.stop().were_refused();
    scene.lost_nothing().await;
}

/// What was taken again is kept under another name than what was handed over with its descriptors.
#[tokio::test]
async fn what_was_taken_again_after_a_hand_over_outlives_an_exec() {
    let Some(scene) = Scene::set(false, "FileDescriptorStoreMax=0\n").await else { return };
    let (source, files) = scene.source(By::Process).await;
    let target = Side::open(&scene, "target", By::Process).await;
    let token = source.offer().await;
    target.owner.adopt(&token, none()).await.unwrap();
    scene.kill(async {}).await;
    scene.verified().await;
    let intruder = scene.intruder(&files);
    for _ in 0..2 {
        let mut watch = scene.host.watch().await;
        let first = watch.owned().await;
        scene.main().await.signal(Signal::SIGUSR1);
        watch.owned_by_other_than(&first).await;
        scene.verified().await;
        assert_eq!(scene.settled(&source, Some(&target)).await, Whose::Target);
    }
    target.die(&scene).await;
    scene.back(&source).await;
    intruder.stop().were_refused();
    scene.lost_nothing().await;
}

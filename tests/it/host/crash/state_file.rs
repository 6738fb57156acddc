//! Hand-overs where nothing outlives a crash but records, and where another program takes the
//! service's place.

use nix::sys::signal::Signal;
use tokio::task::yield_now;

use super::peer::{ALL_ANCHORS, By, Peer};
use super::scenario::{Holder, Scenario};
use super::transfers::{BACK, THERE, round};
use crate::host::soak::retry::ask;
use crate::methods::none;

/// No descriptor holds a byte while the service is down, but the journal names the owners: the
/// service locks it again.
#[tokio::test]
async fn one_side_has_the_disks_where_there_are_records_alone() {
    let Some(scenario) = Scenario::set_up(false, "FileDescriptorStoreMax=0\n").await else {
        return;
    };
    let own = scenario.disk("own.img");
    let (source, _) = scenario.source(By::Process).await;
    for n in 0..BACK.len() {
        let way = ALL_ANCHORS[n % 2];
        round(&scenario, &source, &own, way, [THERE[n % THERE.len()], BACK[n]]).await;
        scenario.verified().await;
    }
    source.owner.close(none()).await.unwrap();
    scenario.owners(1).await;
    scenario.free(&scenario.alone(), 1).await;
    scenario.lost_nothing().await;
}

/// Another program takes the place of the service while disks pass.
#[tokio::test]
async fn one_side_has_the_disks_whenever_the_service_is_replaced() {
    let Some(scenario) = Scenario::set_up(false, "").await else { return };
    let (source, files) = scenario.source(By::Process).await;
    let lock_prober = scenario.lock_prober(&files);
    for (n, way) in ALL_ANCHORS.into_iter().cycle().take(9).enumerate() {
        let target = Peer::open(&scenario, "target", way).await;
        let token = source.offer().await;
        let main = scenario.main().await;
        let mut watch = scenario.host.watch().await;
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
        assert_eq!(scenario.settled(&source, Some(&target)).await, Holder::Target);
        let first = watch.owned().await;
        if way == By::Close {
            main.signal(Signal::SIGUSR1);
            while ask("Close", target.owner.close(none())).await.is_err() {
                if scenario.whose(&source, None).await == Holder::Source {
                    break;
                }
            }
        } else {
            target.die(&scenario).await;
            main.signal(Signal::SIGUSR1);
        }
        watch.owned_by_other_than(&first).await;
        scenario.back(&source).await;
        scenario.owners(2).await;
    }
    lock_prober.stop().were_refused();
    scenario.lost_nothing().await;
}

/// Reacquired locks are stored under other names than transferred ones.
#[tokio::test]
async fn locks_reacquired_after_a_transfer_survive_reexec() {
    let Some(scenario) = Scenario::set_up(false, "FileDescriptorStoreMax=0\n").await else {
        return;
    };
    let (source, files) = scenario.source(By::Process).await;
    let target = Peer::open(&scenario, "target", By::Process).await;
    let token = source.offer().await;
    target.owner.adopt(&token, none()).await.unwrap();
    scenario.kill(async {}).await;
    scenario.verified().await;
    let lock_prober = scenario.lock_prober(&files);
    for _ in 0..2 {
        let mut watch = scenario.host.watch().await;
        let first = watch.owned().await;
        scenario.main().await.signal(Signal::SIGUSR1);
        watch.owned_by_other_than(&first).await;
        scenario.verified().await;
        assert_eq!(scenario.settled(&source, Some(&target)).await, Holder::Target);
    }
    target.die(&scenario).await;
    scenario.back(&source).await;
    lock_prober.stop().were_refused();
    scenario.lost_nothing().await;
}

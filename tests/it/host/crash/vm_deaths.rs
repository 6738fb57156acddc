//! The machines die, one or both, between any two steps; the service lives, or is dead as well.

use std::time::Duration;

use super::peer::{By, Peer};
use super::scenario::{Holder, Scenario};
use crate::dbus_client::option;
use crate::methods::none;

/// The VMs that die.
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
async fn die(scenario: &Scenario, sides: Vec<Peer>, unheard: bool) {
    let die = async {
        for side in sides {
            side.die(scenario).await;
        }
    };
    if unheard { scenario.kill(die).await } else { die.await }
}

async fn round(scenario: &Scenario, dies: Dies, after: After, unheard: bool, by: By) {
    println!("{dies:?} after {after:?}, by {by:?}, unheard: {unheard}");
    // If both ended unnoticed, the one that was opened first ends first.
    let target = Peer::open(scenario, "target", by).await;
    let (source, files) = scenario.source(by).await;
    let lock_prober = scenario.lock_prober(&files);
    let token = if after == After::Nothing { None } else { Some(source.offer().await) };
    if let (After::Adopt, Some(token)) = (after, &token) {
        target.owner.adopt(token, none()).await.unwrap();
    }
    match dies {
        Dies::Source => {
            die(scenario, vec![source], unheard).await;
            match (after, token) {
                (After::Offer, Some(token)) => {
                    // It remains for the caller with the token.
                    let locks = target.owner.adopt(&token, none()).await.unwrap();
                    assert_eq!(locks.len(), scenario.passing().len());
                    scenario.owners(2).await;
                    assert_eq!(scenario.whose(&target, None).await, Holder::Source);
                    lock_prober.stop().were_refused();
                }
                (After::Adopt, _) => {
                    scenario.owners(2).await;
                    assert_eq!(scenario.whose(&target, None).await, Holder::Source);
                    assert_eq!(target.state().await, "running");
                    lock_prober.stop().were_refused();
                }
                _ => {
                    drop(lock_prober);
                    scenario.owners(2).await;
                }
            }
            die(scenario, vec![target], !unheard).await;
        }
        Dies::Target => {
            die(scenario, vec![target], unheard).await;
            scenario.owners(2).await;
            scenario.back(&source).await;
            if let (After::Offer, Some(token)) = (after, token) {
                let other = Peer::open(scenario, "other", by).await;
                other.owner.adopt(&token, none()).await.unwrap();
                assert_eq!(scenario.settled(&source, Some(&other)).await, Holder::Target);
                other.die(scenario).await;
                scenario.owners(2).await;
                scenario.back(&source).await;
            }
            lock_prober.stop().were_refused();
            die(scenario, vec![source], !unheard).await;
        }
        Dies::Both => {
            die(scenario, vec![source, target], unheard).await;
            if let (After::Offer, Some(token)) = (after, token) {
                let other = Peer::open(scenario, "other", by).await;
                other.owner.adopt(&token, none()).await.unwrap();
                scenario.owners(2).await;
                assert_eq!(scenario.whose(&other, None).await, Holder::Source);
                lock_prober.stop().were_refused();
                other.die(scenario).await;
            } else {
                drop(lock_prober);
            }
        }
    }
    scenario.owners(1).await;
    scenario.free(&scenario.alone(), 1).await;
}

#[tokio::test]
async fn one_vm_has_the_disks_whichever_vm_dies() {
    let Some(scenario) = Scenario::set_up(false, "").await else { return };
    for unheard in [false, true] {
        for after in [After::Nothing, After::Offer, After::Adopt] {
            for dies in [Dies::Source, Dies::Target, Dies::Both] {
                let by = if (dies == Dies::Both) ^ unheard { By::Lifeline } else { By::Process };
                round(&scenario, dies, after, unheard, by).await;
            }
        }
    }
    scenario.lost_nothing().await;
}

/// The target ends last, and has returned the locks, which no owner can have, when the service dies
/// a second time.
#[tokio::test]
async fn both_vms_die_while_the_service_is_down_and_it_dies_again_during_the_rollback() {
    let Some(scenario) = Scenario::set_up(false, "").await else { return };
    for point in ["move-decided", "move-noted", "move-marked"] {
        let mut crashed = false;
        for _ in 0..10 {
            let target = Peer::open(&scenario, "target", By::Process).await;
            let (source, _) = scenario.source(By::Process).await;
            let token = source.offer().await;
            target.owner.adopt(&token, none()).await.unwrap();
            let die = async {
                target.die(&scenario).await;
                source.die(&scenario).await;
            };
            crashed |= scenario.crash_after((point, 1), die).await;
            scenario.owners(1).await;
            scenario.free(&scenario.alone(), 1).await;
            if crashed {
                break;
            }
        }
        assert!(crashed, "the source always ended first");
    }
    scenario.lost_nothing().await;
}

#[tokio::test]
async fn an_offer_that_expires_frees_the_disks() {
    let Some(scenario) = Scenario::set_up(false, "").await else { return };
    for unheard in [false, true] {
        let (source, _) = scenario.source(By::Process).await;
        let brief = u64::try_from(Duration::from_millis(300).as_micros()).unwrap();
        source.owner.offer(option("timeout-usec", brief)).await.unwrap();
        die(&scenario, vec![source], unheard).await;
        scenario.owners(1).await;
        scenario.free(&scenario.alone(), 1).await;
        // The living VM keeps the locks that were not adopted.
        let (source, files) = scenario.source(By::Process).await;
        let lock_prober = scenario.lock_prober(&files);
        let token = source.owner.offer(option("timeout-usec", brief)).await.unwrap();
        if unheard {
            scenario.kill(async {}).await;
        }
        let ended = async { while source.owner.cancel(none()).await.is_err() {} };
        crate::fixture::within("a cancelled offer", ended).await;
        let target = Peer::open(&scenario, "target", By::Lifeline).await;
        target.owner.adopt(&token, none()).await.unwrap_err();
        assert_eq!(scenario.settled(&source, Some(&target)).await, Holder::Source);
        lock_prober.stop().were_refused();
        source.owner.close(none()).await.unwrap();
        target.owner.close(none()).await.unwrap();
        scenario.owners(1).await;
    }
    scenario.lost_nothing().await;
}

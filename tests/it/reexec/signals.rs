//! Signals that come together.

use nix::sys::signal::Signal;

use super::Scenario;
use crate::snapshot::Listed;

#[tokio::test]
async fn two_at_once_are_one_or_two() {
    let mut scenario = Scenario::set_up().await;
    scenario.upgrade();
    let first = scenario.watch.owned().await;
    scenario.daemon.signal(Signal::SIGUSR1);
    scenario.daemon.signal(Signal::SIGUSR1);
    scenario.watch.owned_by_other_than(&first).await;
    // By being asked again it is known that it has done with the second.
    scenario.replace(true).await;
    scenario.compare().await;
    scenario.serves().await;
    scenario.end().await;
}

#[tokio::test]
async fn a_reload_right_after() {
    let mut scenario = Scenario::set_up().await;
    let first = scenario.watch.owned().await;
    scenario.daemon.signal(Signal::SIGUSR1);
    scenario.daemon.signal(Signal::SIGHUP);
    scenario.watch.owned_by_other_than(&first).await;
    scenario.says("reloaded the configuration").await;
    scenario.compare().await;
    scenario.serves().await;
    scenario.end().await;
}

#[tokio::test]
async fn an_end_right_after() {
    let scenario = Scenario::set_up().await;
    scenario.daemon.signal(Signal::SIGUSR1);
    scenario.daemon.signal(Signal::SIGTERM);
    let status = scenario.daemon.ended().await;
    assert!(status.success(), "{status}");
    let attempts = scenario.lock_prober.stop();
    // Descriptors are not stored here: disks that nothing else has locked are locked again.
    drop(attempts);
    scenario.daemon.start_again().await;
    assert_eq!(Listed::by(&scenario.bus).await, scenario.before);
}

//! Signals that come together.

use nix::sys::signal::Signal;

use super::Scene;
use crate::listed::Listed;

#[tokio::test]
async fn two_at_once_are_one_or_two() {
    let mut scene = Scene::set().await;
    scene.upgrade();
    let first = scene.watch.owned().await;
    scene.daemon.signal(Signal::SIGUSR1);
    scene.daemon.signal(Signal::SIGUSR1);
    scene.watch.owned_by_other_than(&first).await;
    // By being asked again it is known that it has done with the second.
    scene.replace(true).await;
    scene.compare().await;
    scene.serves().await;
    scene.end().await;
}

#[tokio::test]
async fn a_reload_right_after() {
    let mut scene = Scene::set().await;
    let first = scene.watch.owned().await;
    scene.daemon.signal(Signal::SIGUSR1);
    scene.daemon.signal(Signal::SIGHUP);
    scene.watch.owned_by_other_than(&first).await;
    scene.says("reloaded the configuration").await;
    scene.compare().await;
    scene.serves().await;
    scene.end().await;
}

#[tokio::test]
async fn an_end_right_after() {
    let scene = Scene::set().await;
    scene.daemon.signal(Signal::SIGUSR1);
    scene.daemon.signal(Signal::SIGTERM);
    let status = scene.daemon.ended().await;
    assert!(status.success(), "{status}");
    let attempts = scene.intruder.stop();
    // Nobody keeps descriptors here: what is locked again is what nobody has taken.
    drop(attempts);
    scene.daemon.start_again().await;
    assert_eq!(Listed::by(&scene.bus).await, scene.before);
}

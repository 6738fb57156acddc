//! Killed at any moment, at work and while it comes back, the service keeps its promises.
//!
//! Clients open owners, acquire, convert and release, wait for one another, are suspended and resumed,
//! hand over to other owners, give owners other anchors, and end, all the time. Owners that live throughout hold disks which an intruder never stops trying. After each
//! restart, all that was acknowledged is there, and nothing that is gone.
//!
//! `$VMLOCKD_SOAK_KILLS` says how often it is killed, `$VMLOCKD_SOAK_RUNS` how often at each point
//! that the sources mark, and `$VMLOCKD_SOAK_SEED` repeats a run's choices, though not the moments
//! that the machine chose.

pub(crate) mod answer;
mod client;
pub(crate) mod dice;
mod killer;
mod ledger;
mod load;
mod many;
mod moving;
pub(crate) mod nursery;
pub(crate) mod points;
mod scene;
mod store;
mod tally;

use std::env;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use client::Client;
use killer::Killer;
use scene::{CHURN, Scene};

use crate::house::{Attempts, Intruder, Kind, Rival, attempt};

/// How many clients come and go.
const CLIENTS: u64 = 4;
/// Who ends while the service is dead.
const MAYFLY: u64 = CLIENTS;
/// How soon the file system can be unmounted on which disks were.
const UNMOUNTED: Duration = Duration::from_secs(1);

pub(crate) fn times(variable: &str, default: usize) -> usize {
    match env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")),
        Err(_) => default,
    }
}

/// Owners that live throughout, one by a lifeline and one by a process, and the disks they hold.
async fn lasting(scene: &Scene) -> ([Client<'_>; 2], Vec<PathBuf>) {
    let image = |name| scene.host.image(name).to_str().unwrap().to_owned();
    let disks = ["one.img", "two.img", "three.img", "both.img"].map(image);
    let [one, two, three, both] = disks.clone();
    let mut lifeline = Client::new(scene, 100, vec![one.clone(), two.clone()]).await;
    let mut process = Client::new(scene, 101, vec![three.clone()]).await;
    lifeline.open(&[(one, "exclusive"), (two, "shared")], false).await;
    process.open(&[(three, "exclusive")], true).await;
    for client in [&mut lifeline, &mut process] {
        assert!(client.acquire(&[(both.clone(), "shared")]).await);
    }
    ([lifeline, process], disks.iter().map(|disk| scene.host.at(disk)).collect())
}

/// Has the clients live while something happens to the service, and looks at the end whether
/// anything is left of them.
async fn through(scene: &Scene, what: impl AsyncFnOnce(&mut Killer<'_>)) {
    let (mut lasting, disks) = lasting(scene).await;
    let intruder = Intruder::at(&disks, &scene.host.log());
    let mut clients = Vec::new();
    for who in 0..CLIENTS {
        clients.push(Client::new(scene, who, Scene::own(who)).await);
    }
    let [a, b, c, d] = &mut clients[..] else { unreachable!("there are four") };
    let mut killer = Killer::new(scene, MAYFLY).await;
    let killing = async {
        what(&mut killer).await;
        scene.end();
    };
    let [a, b, c, d] = [a, b, c, d].map(|client| Box::pin(client.live()));
    tokio::join!(Box::pin(killing), a, b, c, d);
    println!("seed {}:\n{}", scene.seed, scene.tally);

    // Started before, since what is measured is not how a program is started.
    let unmount = format!("echo there; read now; until umount {CHURN}; do :; done; echo unmounted");
    let mut unmounting = scene.host.spawn(&["sh", "-c", &unmount]);
    assert_eq!(unmounting.line().await, "there");

    killer.wait_for_all_but(lasting.len()).await;
    let begun = Instant::now();
    // Before the file system is gone, and with it the names.
    let own = (0..=MAYFLY).flat_map(Scene::own).chain(Scene::for_all());
    for disk in own.map(|disk| scene.host.at(disk)) {
        attempt(&disk, Kind::Ofd).unwrap_or_else(|e| panic!("{}: {e}", disk.display()));
    }
    unmounting.say("now");
    assert_eq!(unmounting.line().await, "unmounted");
    let took = begun.elapsed();
    println!("  unmounted after {took:.0?}");
    assert!(took < UNMOUNTED, "{took:?}");

    let Attempts { tries, news } = intruder.stop();
    println!("  the intruder's tries: {} at each disk", tries / disks.len() as u64);
    Attempts { tries, news }.were_refused();
    killer.inspect().await;
    for client in &mut lasting {
        client.end().await;
    }
    killer.wait_for_all_but(0).await;
    for disk in &disks {
        for kind in [Kind::Ofd, Kind::Posix] {
            Rival::try_once(disk, kind, true).unwrap_or_else(|e| panic!("{}: {e}", disk.display()));
        }
    }
    scene.has_no_more_open(killer.service(false).await).await;
    let journal = scene.host.journal().await;
    assert!(!journal.contains("LOST"), "a lock was lost");
}

#[tokio::test]
async fn killed_at_any_moment() {
    let Some(scene) = Scene::set("", MAYFLY + 1).await else { return };
    let kills = times("VMLOCKD_SOAK_KILLS", 50);
    let kill = async |killer: &mut Killer<'_>| {
        for _ in 0..kills {
            killer.kill().await;
        }
    };
    Box::pin(through(&scene, kill)).await;
}

#[tokio::test]
async fn aborted_at_every_point() {
    let mut points = points::all();
    assert!(points.len() >= 20, "{points:?}");
    // These have tests of their own.
    for point in [store::POINT, store::RETAKEN].into_iter().chain(crate::virtlockd::survive::POINTS)
    {
        assert!(points.remove(point));
    }
    let Some(scene) = Scene::set(points::UNIT, MAYFLY + 1).await else { return };
    points::prepare(&scene.host);
    let runs = times("VMLOCKD_SOAK_RUNS", 2);
    let dice = scene.dice(0);
    let abort = async |killer: &mut Killer<'_>| {
        for run in 0..runs {
            for point in &points {
                // Once in the life of a process, or as often as there are locks, or owners.
                let once = point.starts_with("restore-") || point == "reexec";
                let n = if once || run == 0 { 1 } else { 1 + dice.below(3) };
                killer.abort_at(&scene, point, n).await;
            }
        }
    };
    Box::pin(through(&scene, abort)).await;
    points::were_reached(&scene.host, &points, runs).await;
}

//! Killed at any moment, at work and while it comes back, the service keeps its promises.
//!
//! Clients open owners, acquire, convert and release, wait for one another, are suspended and resumed,
//! hand over to other owners, give owners other anchors, and end, all the time. Owners that live throughout hold disks which an prober never stops trying. After each
//! restart, all that was acknowledged is there, and nothing that is gone.
//!
//! `$VMLOCKD_SOAK_KILLS` says how often it is killed, `$VMLOCKD_SOAK_RUNS` how often at each point
//! that the sources mark, and `$VMLOCKD_SOAK_SEED` repeats a run's choices, though not the moments
//! that the machine chose.

mod acknowledged;
mod client;
pub(crate) mod failpoints;
mod fd_store;
mod injector;
mod load;
mod many_locks;
pub(crate) mod process_pool;
pub(crate) mod retry;
mod scenario;
mod statistics;
mod transfer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use client::Client;
use injector::KillInjector;
use scenario::{CHURN, Scenario};

use crate::fixture::{Attempts, ForeignHolder, LockProber, LockType, attempt};

/// How many clients come and go.
const CLIENTS: u64 = 4;
/// The owner that ends while the service is down.
const EPHEMERAL: u64 = CLIENTS;
/// How soon the file system can be unmounted on which disks were.
const UNMOUNTED: Duration = Duration::from_secs(1);

/// Owners that live throughout, one by a lifeline and one by a process, and the disks they hold.
async fn lasting(scenario: &Scenario) -> ([Client<'_>; 2], Vec<PathBuf>) {
    let image = |name| scenario.host.image(name).to_str().unwrap().to_owned();
    let disks = ["one.img", "two.img", "three.img", "both.img"].map(image);
    let [one, two, three, both] = disks.clone();
    let mut lifeline = Client::new(scenario, 100, vec![one.clone(), two.clone()]).await;
    let mut process = Client::new(scenario, 101, vec![three.clone()]).await;
    lifeline.open(&[(one, "exclusive"), (two, "shared")], false).await;
    process.open(&[(three, "exclusive")], true).await;
    for client in [&mut lifeline, &mut process] {
        assert!(client.acquire(&[(both.clone(), "shared")]).await);
    }
    ([lifeline, process], disks.iter().map(|disk| scenario.host.at(disk)).collect())
}

/// Runs the clients while `what` happens to the service, and checks that they leave nothing behind.
async fn through(scenario: &Scenario, what: impl AsyncFnOnce(&mut KillInjector<'_>)) {
    let (mut lasting, disks) = lasting(scenario).await;
    let lock_prober = LockProber::at(&disks, &scenario.host.log());
    let mut clients = Vec::new();
    for who in 0..CLIENTS {
        clients.push(Client::new(scenario, who, Scenario::own(who)).await);
    }
    let [a, b, c, d] = &mut clients[..] else { unreachable!("there are four") };
    let mut injector = KillInjector::new(scenario, EPHEMERAL).await;
    let killing = async {
        what(&mut injector).await;
        scenario.end();
    };
    let [a, b, c, d] = [a, b, c, d].map(|client| Box::pin(client.live()));
    tokio::join!(Box::pin(killing), a, b, c, d);
    println!("seed {}:\n{}", scenario.seed, scenario.statistics);

    // Started before, since what is measured is not how a program is started.
    let unmount = format!("echo there; read now; until umount {CHURN}; do :; done; echo unmounted");
    let mut unmounting = scenario.host.spawn(&["sh", "-c", &unmount]);
    assert_eq!(unmounting.line().await, "there");

    injector.wait_for_all_but(lasting.len()).await;
    let begun = Instant::now();
    // Before the file system is gone, and with it the names.
    let own = (0..=EPHEMERAL).flat_map(Scenario::own).chain(Scenario::for_all());
    for disk in own.map(|disk| scenario.host.at(disk)) {
        attempt(&disk, LockType::Ofd).unwrap_or_else(|e| panic!("{}: {e}", disk.display()));
    }
    unmounting.write_line("now");
    assert_eq!(unmounting.line().await, "unmounted");
    let took = begun.elapsed();
    println!("  unmounted after {took:.0?}");
    assert!(took < UNMOUNTED, "{took:?}");

    let Attempts { tries, news } = lock_prober.stop();
    println!("  the prober's attempts: {} at each disk", tries / disks.len() as u64);
    Attempts { tries, news }.were_refused();
    injector.inspect().await;
    for client in &mut lasting {
        client.end().await;
    }
    injector.wait_for_all_but(0).await;
    for disk in &disks {
        for kind in [LockType::Ofd, LockType::Posix] {
            ForeignHolder::try_once(disk, kind, true)
                .unwrap_or_else(|e| panic!("{}: {e}", disk.display()));
        }
    }
    scenario.has_no_more_open(injector.service(false).await).await;
    let journal = scenario.host.journal().await;
    assert!(!journal.contains("LOST"), "a lock was lost");
}

#[tokio::test]
async fn killed_at_any_moment() {
    let Some(scenario) = Scenario::set_up("", EPHEMERAL + 1).await else { return };
    let kills = crate::fixture::rng::times("VMLOCKD_SOAK_KILLS", 50);
    let kill = async |injector: &mut KillInjector<'_>| {
        for _ in 0..kills {
            injector.kill().await;
        }
    };
    Box::pin(through(&scenario, kill)).await;
}

#[tokio::test]
async fn aborted_at_every_point() {
    let mut points = failpoints::all();
    assert!(points.len() >= 20, "{points:?}");
    // These have tests of their own.
    for point in [fd_store::POINT, fd_store::RETAKEN]
        .into_iter()
        .chain(crate::virtlockd::host::restart::POINTS)
    {
        assert!(points.remove(point));
    }
    let Some(scenario) = Scenario::set_up(failpoints::UNIT, EPHEMERAL + 1).await else { return };
    failpoints::prepare(&scenario.host);
    let runs = crate::fixture::rng::times("VMLOCKD_SOAK_RUNS", 2);
    let rng = scenario.rng(0);
    let abort = async |injector: &mut KillInjector<'_>| {
        for run in 0..runs {
            for point in &points {
                // Once in the life of a process, or as often as there are locks, or owners.
                let once = point.starts_with("restore-") || point == "reexec";
                let n = if once || run == 0 { 1 } else { 1 + rng.below(3) };
                injector.abort_at(&scenario, point, n).await;
            }
        }
    };
    Box::pin(through(&scenario, abort)).await;
    failpoints::were_reached(&scenario.host, &points, runs).await;
}

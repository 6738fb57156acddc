//! Locks outlive the service: whatever ends it, no other process gets one in between, and what it
//! knew it knows again.
//!
//! Two machines hold disks, one by a lifeline and one by a process, exclusively and together. An
//! prober tries to lock these disks all the while.

mod event;
mod memory;
mod storage;
mod vms;

use crate::nspawn::{Host, Tree};
use event::Event;
use vms::TestVms;

/// Where the lock files are that have hashed names.
const LOCKSPACE: &str = "/srv/locks";

/// Restarts soon, yet not at once: there is a time without any process.
const RESTART: &str = "[Service]\nRestartSec=100ms\n";

async fn host(tree: Tree) -> Option<Host> {
    let host = Host::boot(tree).await?;
    host.drop_in("restart", RESTART).await;
    Some(host)
}

/// The promise, for a thing that happens.
async fn outlives(host: Host, event: Event) {
    let before = host.enable().await;
    let guests = TestVms::begin(&host).await;
    let lock_prober = guests.lock_prober().await;
    let known = guests.known().await;

    let after = event.happen(&host, before).await;
    assert_eq!(after == before, event.leaves_the_process(), "{before:?}, then {after:?}");
    let still_known = guests.known().await;
    lock_prober.stop().were_refused();
    assert_eq!(still_known, known);
    guests.keep_others_out().await;
    guests.end_and_leave_nothing().await;
    assert_eq!(host.main().await, after);
}

async fn outlives_on(tree: Tree, event: Event) {
    if let Some(host) = host(tree).await {
        outlives(host, event).await;
    }
}

/// Tests an event with hashed names of lock files.
async fn outlives_hashed(tree: Tree, event: Event) {
    let Some(host) = host(tree).await else { return };
    std::fs::create_dir(host.at(LOCKSPACE)).unwrap();
    host.configure(&format!("file_lockspace_dir = \"{LOCKSPACE}\"\n"));
    outlives(host, event).await;
}

/// The descriptors that systemd keeps for a stopped service depend on its version: before 254,
/// none. Then the locks are free until the service is started, and are locked again if they still
/// are.
async fn outlives_a_stop(tree: Tree) {
    let Some(host) = host(tree).await else { return };
    if host.systemd() >= 254 {
        return outlives(host, Event::Upgrade).await;
    }
    let before = host.enable().await;
    let guests = TestVms::begin(&host).await;
    let known = guests.known().await;
    let after = Event::Upgrade.happen(&host, before).await;
    assert_ne!(after, before);
    guests.keep_others_out().await;
    assert_eq!(guests.known().await, known);
    let lock_prober = guests.lock_prober().await;
    guests.keep_others_out().await;
    lock_prober.stop().were_refused();
    guests.end_and_leave_nothing().await;
}

/// One tree, all that happens.
macro_rules! on {
    ($name:ident, $tree:expr) => {
        mod $name {
            use super::{Event, Tree, outlives_hashed, outlives_on};

            #[tokio::test]
            async fn a_kill() {
                outlives_on($tree, Event::Kill).await;
            }

            #[tokio::test]
            async fn two_kills() {
                outlives_on($tree, Event::Kills).await;
            }

            #[tokio::test]
            async fn a_kill_for_its_memory() {
                outlives_on($tree, Event::OutOfMemory).await;
            }

            #[tokio::test]
            async fn an_abort() {
                outlives_on($tree, Event::Abort).await;
            }

            #[tokio::test]
            async fn a_restart() {
                outlives_on($tree, Event::Restart).await;
            }

            #[tokio::test]
            async fn a_restart_with_another_binary() {
                outlives_on($tree, Event::Replace).await;
            }

            #[tokio::test]
            async fn a_stop_and_a_start() {
                super::outlives_a_stop($tree).await;
            }

            #[tokio::test]
            async fn systemds_own_restart() {
                outlives_on($tree, Event::Reexec).await;
            }

            #[tokio::test]
            async fn a_reload_of_units() {
                outlives_on($tree, Event::Reload).await;
            }

            #[tokio::test]
            async fn a_kill_where_lock_files_are_hashed() {
                outlives_hashed($tree, Event::Kill).await;
            }
        }
    };
}

on!(here, Tree::Own);
on!(trixie, Tree::Release("trixie"));

/// The oldest systemd that is supported.
mod bookworm {
    use super::{Event, Tree, outlives_a_stop, outlives_on};

    #[tokio::test]
    async fn a_kill() {
        outlives_on(Tree::Release("bookworm"), Event::Kill).await;
    }

    #[tokio::test]
    async fn a_stop_and_a_start() {
        outlives_a_stop(Tree::Release("bookworm")).await;
    }
}

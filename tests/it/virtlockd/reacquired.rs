//! A VM that is refused by its own lock: after a restart without a store, and where libvirt left a lock
//! behind.

use super::many_clients::sleep;
use super::reserved::Scenario;
use crate::cli::vmlockctl;
use crate::fixture::rpc::{Owner, SHARED};
use crate::fixture::{ForeignHolder, LockType};
use crate::refused_requests::assert_free;
use crate::snapshot::Listed;

impl Scenario {
    /// Kills the service, whose descriptors nothing keeps, and starts it again.
    async fn restart(&self) {
        self.fixture.daemon().kill9().await;
        self.fixture.daemon().start_again().await;
    }

    /// The disk has one lock, in this mode, which is in the kernel, too.
    async fn is_locked_once(&self, mode: &str) {
        let listed = Listed::by(&self.bus).await;
        let modes: Vec<&str> = listed.on(&self.disk).map(|lock| &*lock["mode"]).collect();
        assert_eq!(modes, [mode]);
        ForeignHolder::try_once(&self.path, LockType::Posix, true).unwrap_err();
    }

    /// A request by libvirt is refused, and this is in the message.
    fn is_refused(&self, words: &[&str]) -> String {
        let refused = self.libvirtd(&self.owner).acquire("", &self.disk, 0).refused();
        assert_eq!(refused.code, 87, "{}", refused.message);
        for word in words {
            assert!(refused.message.contains(word), "not {word}, but {}", refused.message);
        }
        refused.message
    }
}

/// libvirt could not release the lock of a guest that was suspended while the service was gone.
#[tokio::test]
async fn libvirt_adopts_a_lock_that_the_service_acquired_again() {
    let scenario = Scenario::set_up("").await;
    for restarts in 1..=2 {
        for _ in 0..restarts {
            scenario.restart().await;
        }
        scenario.go_on();
        scenario.is_locked_once("exclusive").await;
        // Once: a guest that lists one disk twice must not start.
        scenario.is_refused(&["VM \"web1\"", "this VM itself holds it"]);
    }
    scenario.pause();
    scenario.libvirtd(&scenario.owner).release("", &scenario.disk, 0).refused();
    scenario.go_on();
    scenario.is_locked_once("exclusive").await;
}

#[tokio::test]
async fn a_lock_is_adopted_in_the_mode_that_is_requested() {
    let scenario = Scenario::set_up("").await;
    scenario.restart().await;
    scenario.libvirtd(&scenario.owner).acquire("", &scenario.disk, SHARED).granted();
    scenario.is_locked_once("shared").await;
    ForeignHolder::try_once(&scenario.path, LockType::Posix, false).unwrap();
    scenario.restart().await;
    scenario.go_on();
    scenario.is_locked_once("exclusive").await;
}

#[tokio::test]
async fn another_vm_or_process_adopts_nothing() {
    let scenario = Scenario::set_up("").await;
    scenario.restart().await;
    let other = sleep(&scenario.fixture);
    for owner in [Owner::new("web2", 2, other.pid()), Owner::new("web1", 1, other.pid())] {
        let refused = scenario.libvirtd(&owner).acquire("", &scenario.disk, 0).refused();
        assert!(refused.message.contains("VM \"web1\""), "{}", refused.message);
        assert!(!refused.message.contains("itself"), "{}", refused.message);
    }
    scenario.go_on();
}

#[tokio::test]
async fn a_lock_that_was_lost_meanwhile_is_adopted_once_it_is_there() {
    let scenario = Scenario::set_up("").await;
    scenario.fixture.daemon().kill9().await;
    let foreign_holder = ForeignHolder::hold(&scenario.path, LockType::Posix, true).unwrap();
    scenario.fixture.daemon().start_again().await;
    scenario.is_refused(&["this VM itself holds it", "this lock is lost"]);
    foreign_holder.release();
    scenario.go_on();
    scenario.is_locked_once("exclusive").await;
}

/// libvirt 9 to 12 leaves the lock of a base image behind. The message says how to free it.
#[tokio::test]
async fn a_refusal_by_the_own_lock_names_the_command_that_releases_it() {
    let scenario = Scenario::set_up("release_grace = 3600\n").await;
    let message =
        scenario.is_refused(&["this VM itself holds it", "may have left the lock behind"]);
    let command = message.split('\'').find_map(|part| part.strip_prefix("vmlockctl "));
    let words: Vec<&str> = command.unwrap().split(' ').collect();
    assert_eq!(words[..2], ["release", "--force"]);
    vmlockctl(&scenario.fixture, &words).await.ok();
    assert_free(&scenario.path);
    scenario.go_on();
}

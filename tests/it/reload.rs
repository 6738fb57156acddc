//! Other settings while locks are held.

use std::fs;

use nix::sys::signal::Signal;

use crate::dbus_client::{TestVm, exclusive, lock, manager};
use crate::fixture::{Fixture, ForeignHolder, LockProber, LockType, within};
use crate::methods::none;
use crate::nspawn::{Host, Tree};
use crate::snapshot::Listed;

const HASHED: &str = "file_lockspace_dir = \"@DIR@/locks\"\n";
const WRONG: &str = "file_lockspace_dri = \"/x\"\n";
/// The message for an invalid file.
const STAYS: &str = "cannot reload the configuration, the old one stays in force";

/// How the reload is triggered.
#[derive(Clone, Copy)]
enum Trigger {
    Signal,
    Method,
}

impl Trigger {
    /// Makes the service load the file, and waits for it.
    async fn load(self, fixture: &Fixture, right: bool) {
        let bus = fixture.connection().await;
        match self {
            Self::Signal => {
                let words = if right { "reloaded the configuration" } else { STAYS };
                let count = || fixture.daemon().stderr().matches(words).count();
                let before = count();
                fixture.daemon().signal(Signal::SIGHUP);
                let said = async {
                    while count() == before {
                        Listed::by(&bus).await;
                    }
                };
                within(words, said).await;
            }
            Self::Method => {
                let answer = manager(&bus).await.reload(none()).await;
                assert_eq!(answer.is_ok(), right, "{answer:?}");
            }
        }
    }
}

async fn held_locks_stay(way: Trigger) {
    let fixture = Fixture::builder().folder("locks").start().await;
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let lock_file = async |name: &str| {
        let disk = fixture.raw_of(0, name);
        let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        lock(&bus, &locks[0]).await.lock_file().await.unwrap()
    };
    let direct = lock_file("direct").await;
    fixture.configure(HASHED);
    way.load(&fixture, true).await;
    let hashed = lock_file("hashed").await;
    fixture.configure(WRONG);
    way.load(&fixture, false).await;
    let still = lock_file("still").await;
    let locks = fixture.dir().join("locks");
    for (file, elsewhere) in [(&direct, false), (&hashed, true), (&still, true)] {
        assert_eq!(file.starts_with(locks.to_str().unwrap()), elsewhere, "{file}");
    }

    let before = Listed::by(&bus).await;
    fixture.daemon().kill9().await;
    // The next one would use it.
    fixture.configure(HASHED);
    fixture.daemon().start_again().await;
    assert_eq!(Listed::by(&bus).await, before);
    let verified = async || {
        let rows = manager(&bus).await.list_locks(none()).await.unwrap();
        rows.iter().all(|row| bool::try_from(&row["verified"]).unwrap())
    };
    within("all locks verified", async { while !verified().await {} }).await;
    for file in [direct, hashed, still] {
        ForeignHolder::try_once(file, LockType::Ofd, true).unwrap_err();
    }
}

#[tokio::test]
async fn held_locks_stay_at_sighup() {
    held_locks_stay(Trigger::Signal).await;
}

#[tokio::test]
async fn held_locks_stay_when_asked_to() {
    held_locks_stay(Trigger::Method).await;
}

/// A host with systemd.
mod host {
    use super::*;

    /// Reloaded by systemd, and killed afterwards: whatever the settings are, no other owner gets a
    /// disk.
    #[tokio::test]
    async fn held_locks_stay_in_a_host() {
        let Some(host) = Host::boot(Tree::Own).await else { return };
        fs::create_dir(host.at("/srv/locks")).unwrap();
        let main = host.enable().await;
        let (mut watch, bus) = (host.watch().await, host.bus().await);
        let web1 = TestVm::open(&bus, "web1").await;
        let lock_file = async |name: &str| {
            let disk = host.image(name);
            let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
            lock(&bus, &locks[0]).await.lock_file().await.unwrap()
        };
        let direct = lock_file("direct").await;
        let lock_prober = LockProber::at(&[host.at(&direct)], &host.log());
        let right = "file_lockspace_dir = \"/srv/locks\"\n";
        host.configure(right);
        host.systemctl(&["reload", "vmlockd"]).await;
        assert!(lock_file("hashed").await.starts_with("/srv/locks/"));
        host.configure(WRONG);
        // The unit's ExecReload= fails, and so does the job. The service runs on.
        host.run_outside_units(&["systemctl", "reload", "vmlockd"]).await.refused();
        assert_eq!(host.property("ActiveState").await, "active");
        let journal = host.journal().await;
        assert!(journal.contains(STAYS), "{journal}");
        assert!(journal.contains("vmlockctl: cannot reload the configuration: "), "{journal}");
        assert!(lock_file("still").await.starts_with("/srv/locks/"));
        assert_eq!(host.main().await, main);

        let before = Listed::by(&bus).await;
        host.configure(right);
        main.signal(Signal::SIGKILL);
        host.successor(&mut watch, main).await;
        assert_eq!(Listed::by(&bus).await, before);
        lock_prober.stop().were_refused();
    }
}

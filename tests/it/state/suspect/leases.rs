//! Damaged records of leases, which callers lock over D-Bus or libvirt's protocol.

use std::fs;
use std::path::PathBuf;

use zbus::Connection;

use super::{SUSPECT, change, damage, restart, says};
use crate::cli::{json, str, vmlockctl};
use crate::dbus_client::{TestVm, manager};
use crate::fixture::rpc::{AUTOCREATE, Owner, Rpc};
use crate::fixture::{Damage, Fixture, ForeignHolder, LockType, field};
use crate::methods::none;
use crate::refused_requests::{assert_free, assert_refused};
use crate::snapshot::Listed;

/// A lease of a VM, and a service whose descriptors nothing keeps.
struct Scenario {
    fixture: Fixture,
    bus: Connection,
    name: String,
    file: PathBuf,
    _web1: TestVm,
}

impl Scenario {
    async fn set_up(mode: &str) -> Scenario {
        let fixture = Fixture::builder().start().await;
        let bus = fixture.connection().await;
        let directory = fixture.dir().join("leases");
        let manager = manager(&bus).await;
        manager.create_lockspace(str(&directory), none()).await.unwrap();
        let name = format!("lease:{}/50%25", str(&directory));
        manager.create_lease(&name, none()).await.unwrap();
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[(&name, mode)]).await.unwrap();
        Scenario { file: directory.join("50%"), fixture, bus, name, _web1: web1 }
    }

    /// The lease is locked for the owner `suspect`, and every request is refused.
    async fn is_suspect(&self) {
        says(&self.fixture, &locked(&self.file)).await;
        let listed = Listed::by(&self.bus).await;
        let owners: Vec<_> = listed.on(&self.name).map(|lock| lock["name"].clone()).collect();
        assert_eq!(owners, [SUSPECT]);
        ForeignHolder::try_once(&self.file, LockType::Posix, true).unwrap_err();
        let other = TestVm::open(&self.bus, "web2").await;
        let refused = other.acquire(&[(&self.name, "exclusive")]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "VM \"suspect\"");
        other.owner.close(none()).await.unwrap();
    }
}

fn locked(file: &std::path::Path) -> String {
    format!("a damaged lock record names lease {}: it is locked again", str(file))
}

/// A change of the record of the lease.
#[derive(Debug)]
enum Changed {
    It(Damage),
    /// A text in a field, whose own checksum is right.
    Text(u8, &'static str, &'static str),
}

#[tokio::test]
async fn a_lease_that_a_damaged_record_names_is_locked_again() {
    for what in [
        Changed::It(Damage::Field(field::LOCK)),
        Changed::It(Damage::Value(field::ID)),
        Changed::It(Damage::Mode),
        Changed::It(Damage::Value(field::IDENTITY)),
        Changed::Text(field::LOCKSPACE, "lease_1", "leaze_1"),
        Changed::Text(field::RESOURCE, "lease:", "leaze:"),
        Changed::It(Damage::Field(field::LOCK_FILE)),
        Changed::Text(field::LOCK_FILE, "/50%", "/51%"),
    ] {
        let scenario = Scenario::set_up("exclusive").await;
        restart(&scenario.fixture, || {
            change(&super::state_file(&scenario.fixture), |image| {
                let lock = image.last_lock();
                match &what {
                    Changed::It(damage) => image.damage(&lock, damage),
                    Changed::Text(tag, text, other) => image.forge(&lock, &[*tag], text, other),
                }
            });
        })
        .await;
        scenario.is_suspect().await;
        restart(&scenario.fixture, || ()).await;
        scenario.is_suspect_still(&format!("{what:?}")).await;
        let found = json(&scenario.fixture, &["list"]).await;
        let suspect = found.as_array().unwrap().iter().find(|lock| lock["name"] == SUSPECT);
        let number = suspect.unwrap()["generation"].to_string();
        vmlockctl(&scenario.fixture, &["release", &number]).await.ok();
        assert_free(&scenario.file);
        assert!(!scenario.file.with_file_name("51%").exists());
    }
}

impl Scenario {
    async fn is_suspect_still(&self, text: &str) {
        let listed = Listed::by(&self.bus).await;
        let owners: Vec<_> = listed.on(&self.name).map(|lock| lock["name"].clone()).collect();
        assert_eq!(owners, [SUSPECT], "{text}");
    }
}

#[tokio::test]
async fn the_commands_report_a_suspect_lease_and_unlock_releases_it() {
    let scenario = Scenario::set_up("shared").await;
    damage(&scenario.fixture, &Damage::Value(field::LOCK)).await;
    says(&scenario.fixture, &locked(&scenario.file)).await;
    // Its mode is as it was.
    ForeignHolder::try_once(&scenario.file, LockType::Posix, false).unwrap();
    let who = vmlockctl(&scenario.fixture, &["who", &scenario.name]).await.ok();
    assert!(who.contains("locked in shared mode by VM \"suspect\""), "{who}");
    let ran = scenario.fixture.run("vmlockctl", &["doctor"]).await;
    let line = ran.stdout.lines().find(|line| line.contains("damaged records name")).unwrap();
    let uuid = line.rsplit(['\'', ' ']).find(|word| word.len() == 36).unwrap();
    vmlockctl(&scenario.fixture, &["unlock", uuid]).await.ok();
    assert_free(&scenario.file);
}

/// A file that libvirt had made for its lock is not made once more, and one that is there is locked.
#[tokio::test]
async fn a_lease_of_libvirt_is_reacquired_at_its_file() {
    let config = "virtlockd_socket = \"@DIR@/virtlockd-sock\"\nrelease_grace = 0\n";
    let fixture = Fixture::builder().config(config).folder("leases").start().await;
    let (file, directory) = (fixture.dir().join("leases/web"), fixture.dir().join("leases"));
    let connect = || Rpc::connect(&fixture.dir().join("virtlockd-sock")).unwrap();
    let mut web1 = connect();
    web1.register(&Owner::new("web1", 1, std::process::id())).granted();
    web1.create_lockspace(str(&directory)).granted();
    web1.acquire(str(&directory), "web", AUTOCREATE).granted();
    damage(&fixture, &Damage::Value(field::LOCK)).await;
    says(&fixture, &locked(&file)).await;
    ForeignHolder::try_once(&file, LockType::Posix, true).unwrap_err();
    let mut web2 = connect();
    web2.register(&Owner::new("web2", 2, std::process::id())).granted();
    let refusal = web2.acquire(str(&directory), "web", AUTOCREATE).refused();
    assert!(refusal.message.contains("VM \"suspect\""), "{refusal:?}");

    damage(&fixture, &Damage::Value(field::LOCK)).await;
    restart(&fixture, || fs::remove_file(&file).unwrap()).await;
    says(&fixture, "lost").await;
    assert!(!file.exists());
}

/// The record of the lockspace is damaged, too: it is there again, by what the record of the lock says.
#[tokio::test]
async fn the_lockspace_of_a_lock_is_known_without_its_record() {
    let scenario = Scenario::set_up("exclusive").await;
    restart(&scenario.fixture, || {
        change(&super::state_file(&scenario.fixture), |image| {
            let lockspace = image.of_kind("lockspace").pop().expect("there is a lockspace");
            image.damage(&lockspace, &Damage::Checksum);
        });
    })
    .await;
    let other = TestVm::open(&scenario.bus, "web2").await;
    let refused = other.acquire(&[(&scenario.name, "exclusive")]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "VM \"web1\"");
}

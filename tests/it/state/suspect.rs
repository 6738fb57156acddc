//! Damaged lock records where no descriptors are kept: the disk that a record still names is locked
//! again, for an owner that only an administrator ends.

mod joined;
mod leases;
mod lockspaces;

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zbus::Connection;

use crate::cli::{fails, json, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive, shared};
use crate::fixture::{Damage, Fixture, ForeignHolder, LockType, StateImage, field, within};
use crate::refused_requests::{assert_free, assert_refused};
use crate::snapshot::Listed;
use crate::virtlockd::host::hung_mount::HungMount;

const SUSPECT: &str = "suspect";

/// A VM with a disk, and a service whose descriptors nothing keeps.
struct Scenario {
    fixture: Fixture,
    bus: Connection,
    disk: PathBuf,
    _web1: TestVm,
}

impl Scenario {
    async fn set_up(mode: fn(&Path) -> (&str, &'static str)) -> Scenario {
        let fixture = Fixture::builder().start().await;
        let bus = fixture.connection().await;
        let disk = fixture.raw_of(0, "disk.img");
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[mode(&disk)]).await.unwrap();
        Scenario { fixture, bus, disk, _web1: web1 }
    }

    fn state(&self) -> PathBuf {
        state_file(&self.fixture)
    }

    async fn restart(&self, meanwhile: impl FnOnce()) {
        restart(&self.fixture, meanwhile).await;
    }

    async fn damage(&self, what: &Damage) {
        damage(&self.fixture, what).await;
    }

    async fn says(&self, words: &str) {
        says(&self.fixture, words).await;
    }

    /// The names of the owners that hold the disk.
    async fn owners(&self) -> Vec<String> {
        let listed = Listed::by(&self.bus).await;
        listed.on(str(&self.disk)).map(|lock| lock["name"].clone()).collect()
    }

    async fn is_suspect(&self) {
        let locked = format!("a damaged lock record names {}: it is locked again", str(&self.disk));
        self.says(&locked).await;
        assert_eq!(self.owners().await, [SUSPECT]);
        ForeignHolder::try_once(&self.disk, LockType::Posix, true).unwrap_err();
        let other = TestVm::open(&self.bus, "web2").await;
        let refused = other.acquire(&[exclusive(&self.disk)]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "VM \"suspect\"");
    }
}

fn state_file(fixture: &Fixture) -> PathBuf {
    fixture.launch().runtime_dir.join("state")
}

/// Kills the service, does something, and starts it again.
async fn restart(fixture: &Fixture, meanwhile: impl FnOnce()) {
    fixture.daemon().kill9().await;
    meanwhile();
    fixture.daemon().start_again().await;
}

/// Changes the state file of a service that does not run.
pub(super) fn change(file: &Path, change: impl FnOnce(&mut StateImage)) {
    let mut image = StateImage::read(file);
    change(&mut image);
    image.write(file);
}

/// Kills the service, damages the record of the last lock, and starts it again.
async fn damage(fixture: &Fixture, what: &Damage) {
    restart(fixture, || {
        change(&state_file(fixture), |image| {
            let lock = image.last_lock();
            image.damage(&lock, what);
        });
    })
    .await;
}

/// Waits until the service has written this into its log.
async fn says(fixture: &Fixture, words: &str) {
    fixture.daemon().logs(words).await;
}

/// The record's path can be read: the disk stays locked until an administrator releases it, over the
/// next crash as well.
#[tokio::test]
async fn a_disk_that_a_damaged_record_names_is_locked_again() {
    for what in [
        Damage::Field(field::LOCK),
        Damage::Value(field::LOCK),
        Damage::Value(field::ID),
        Damage::Value(field::IDENTITY),
        Damage::Checksum,
        Damage::Tag,
        Damage::Stage,
        Damage::Mode,
    ] {
        let scenario = Scenario::set_up(exclusive).await;
        scenario.damage(&what).await;
        scenario.is_suspect().await;
        let said = scenario.fixture.daemon().complete_log().await;
        assert!(said.contains("no descriptors are stored"), "{said}");
        assert!(!said.contains("what nothing is known of stays locked"), "{said}");
        scenario.restart(|| ()).await;
        assert_eq!(scenario.owners().await, [SUSPECT], "{what:?}");
        let found = json(&scenario.fixture, &["list"]).await;
        let suspect = found.as_array().unwrap().iter().find(|lock| lock["name"] == SUSPECT);
        let number = suspect.unwrap()["generation"].to_string();
        vmlockctl(&scenario.fixture, &["release", &number]).await.ok();
        assert_free(&scenario.disk);
    }
}

#[tokio::test]
async fn doctor_says_what_to_do_about_suspects() {
    let scenario = Scenario::set_up(shared).await;
    scenario.damage(&Damage::Value(field::LOCK)).await;
    scenario.says("it is locked again as suspect").await;
    let ran = scenario.fixture.run("vmlockctl", &["doctor"]).await;
    let line = ran.stdout.lines().find(|line| line.contains("damaged records name")).unwrap();
    assert!(line.starts_with("DANGER") && line.contains("vmlockctl unlock"), "{line}");
    let uuid = line.rsplit(['\'', ' ']).find(|word| word.len() == 36).unwrap();
    vmlockctl(&scenario.fixture, &["unlock", uuid]).await.ok();
    assert_free(&scenario.disk);
}

/// The identity is damaged, and another digit is as good: the path counts as well.
#[tokio::test]
async fn a_damaged_identity_does_not_free_the_disk() {
    let scenario = Scenario::set_up(exclusive).await;
    let image = StateImage::read(&scenario.state());
    let mut identity = image.value(&image.last_lock(), field::IDENTITY).unwrap();
    // Its kind and device are as they were, and its inode is another.
    identity[9 + 3] ^= 1;
    scenario.damage(&Damage::Forged(field::IDENTITY, identity)).await;
    let locked = format!("a damaged lock record names {}: it is locked again", str(&scenario.disk));
    scenario.says(&locked).await;
    ForeignHolder::try_once(&scenario.disk, LockType::Posix, true).unwrap_err();
}

/// A foreign holder has locked the disk meanwhile, and the log says that.
#[tokio::test]
async fn a_disk_that_a_foreign_holder_has_is_reported_as_lost() {
    for what in [Damage::Value(field::LOCK), Damage::Value(field::IDENTITY)] {
        let scenario = Scenario::set_up(exclusive).await;
        let mut foreign_holder = None;
        scenario
            .restart(|| {
                change(&scenario.state(), |image| image.damage(&image.last_lock(), &what));
                foreign_holder =
                    Some(ForeignHolder::hold(&scenario.disk, LockType::Posix, true).unwrap());
            })
            .await;
        scenario.says("lost").await;
        let other = TestVm::open(&scenario.bus, "web2").await;
        other.acquire(&[exclusive(&scenario.disk)]).await.unwrap_err();
    }
}

/// One of the names is damaged: the others tell which disk it is.
#[tokio::test]
async fn a_damaged_path_is_outvoted() {
    for tag in [field::PATH, field::CANONICAL, field::RESOURCE] {
        let nothing = |scenario: &Scenario| scenario.disk.with_file_name("none.img");
        let name = |scenario: &Scenario| str(&nothing(scenario)).as_bytes().to_vec();
        for what in [Damage::Other, Damage::Forged] {
            let scenario = Scenario::set_up(exclusive).await;
            scenario.damage(&what(tag, name(&scenario))).await;
            scenario.is_suspect().await;
            assert!(!nothing(&scenario).exists());
        }
    }
}

/// All names are damaged. Whatever they lead to, nothing is created, nothing hangs, and what is no disk
/// is not locked.
#[tokio::test]
async fn damaged_paths_do_no_harm() {
    for other in ["fifo.img", "dirs.img", "none.img", "link.img"] {
        let scenario = Scenario::set_up(exclusive).await;
        let path = scenario.disk.with_file_name(other);
        match other {
            "fifo.img" => mkfifo(&path, Mode::S_IRWXU).unwrap(),
            "dirs.img" => fs::create_dir(&path).unwrap(),
            "link.img" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
            _ => {}
        }
        scenario
            .restart(|| {
                change(&scenario.state(), |image| {
                    let (lock, tags) = (
                        image.last_lock(),
                        [field::RESOURCE, field::CANONICAL, field::PATH, field::LOCK_FILE],
                    );
                    image.forge(&lock, &tags, str(&scenario.disk), str(&path));
                });
            })
            .await;
        scenario.says("which cannot be locked again").await;
        assert_eq!(path.symlink_metadata().is_ok(), other != "none.img");
        // The identity that the record names stays reserved: its VM may be writing there.
        let refused = fails(&scenario.fixture, 75, &["lock", str(&scenario.disk)]).await;
        assert!(refused.contains("VM \"suspect\""), "{refused}");
        assert!(scenario.disk.exists());
    }
}

/// Any byte of the record.
#[tokio::test]
async fn whatever_byte_is_damaged_the_disk_is_locked_or_the_log_says_that_it_is_not() {
    let lock = |scenario: &Scenario| StateImage::read(&scenario.state()).last_lock();
    let length = lock(&Scenario::set_up(exclusive).await).len();
    for at in (0..length).step_by(23) {
        let scenario = Scenario::set_up(exclusive).await;
        let damaged = lock(&scenario).start + at;
        scenario.restart(|| change(&scenario.state(), |image| image.bytes[damaged] ^= 1)).await;
        scenario.says("and no descriptors are stored").await;
        let told = async {
            loop {
                let said = scenario.fixture.daemon().stderr();
                let locked =
                    ForeignHolder::try_once(&scenario.disk, LockType::Posix, true).is_err();
                let lost = said.contains("cannot be locked again") || said.contains("suspects=0");
                if locked || lost {
                    return;
                }
            }
        };
        within(&format!("byte {at}"), told).await;
    }
}

/// A mount that does not respond, which needs FUSE.
mod host {
    use super::*;

    /// Its storage does not answer when the service is started again, and does so later.
    #[tokio::test]
    async fn a_disk_whose_storage_does_not_answer_is_locked_again_once_it_does() {
        let fixture = Fixture::builder().start().await;
        let Some(far) = HungMount::mount(&fixture).await else { return };
        let (bus, disk) = (fixture.connection().await, far.disk());
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&disk)]).await.unwrap();
        restart(&fixture, || {
            far.stop();
            change(&state_file(&fixture), |image| {
                image.damage(&image.last_lock(), &Damage::Value(field::IDENTITY));
            });
        })
        .await;
        says(&fixture, "which is locked again as soon as its storage responds").await;
        far.go_on();
        says(&fixture, &format!("a damaged lock record names {}: it is locked again", str(&disk)))
            .await;
        let web2 = TestVm::open(&bus, "web2").await;
        let refused = web2.acquire(&[exclusive(&disk)]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "VM \"suspect\"");
    }
}

//! Damaged lock records where no descriptors are kept: the disk that a record still names is locked
//! again, for an owner that only an administrator ends.

mod joined;
mod leases;
mod lockspaces;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zbus::Connection;

use crate::cli::{fails, json, str, vmlockctl};
use crate::house::{House, Kind, Rival, within};
use crate::listed::Listed;
use crate::machine::{Machine, exclusive, shared};
use crate::untouched::{assert_free, assert_refused};
use crate::virtlockd::hang::Far;

const SUSPECT: &str = "suspect";

/// A VM with a disk, and a service whose descriptors nothing keeps.
struct Scene {
    house: House,
    bus: Connection,
    disk: PathBuf,
    _web1: Machine,
}

impl Scene {
    async fn set(mode: fn(&Path) -> (&str, &'static str)) -> Scene {
        let house = House::builder().start().await;
        let bus = house.connection().await;
        let disk = house.raw_of(0, "disk.img");
        let web1 = Machine::open(&bus, "web1").await;
        web1.acquire(&[mode(&disk)]).await.unwrap();
        Scene { house, bus, disk, _web1: web1 }
    }

    fn record(&self) -> (Vec<u8>, Range<usize>) {
        record(&self.house)
    }

    fn state(&self) -> PathBuf {
        state_file(&self.house)
    }

    async fn restart(&self, meanwhile: impl FnOnce()) {
        restart(&self.house, meanwhile).await;
    }

    async fn damage(&self, text: &str, other: &str) {
        damage(&self.house, text, other).await;
    }

    async fn says(&self, words: &str) {
        says(&self.house, words).await;
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
        Rival::try_once(&self.disk, Kind::Posix, true).unwrap_err();
        let other = Machine::open(&self.bus, "web2").await;
        let refused = other.acquire(&[exclusive(&self.disk)]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "VM \"suspect\"");
    }
}

fn state_file(house: &House) -> PathBuf {
    house.launch().runtime_dir.join("state")
}

/// The record of the last lock, and where it is in the state file.
fn record(house: &House) -> (Vec<u8>, Range<usize>) {
    let state = fs::read(state_file(house)).unwrap();
    let word = b" {\"lock\":";
    let at = state.windows(word.len()).rposition(|part| part == word).unwrap();
    let begin = state[..at].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let end = at + state[at..].iter().position(|byte| *byte == b'\n').unwrap();
    (state, begin..end)
}

/// Kills the service, does something, and starts it again.
async fn restart(house: &House, meanwhile: impl FnOnce()) {
    house.daemon().kill9().await;
    meanwhile();
    house.daemon().start_again().await;
}

/// Kills the service, replaces a text in the record of the last lock, and starts it again.
async fn damage(house: &House, text: &str, other: &str) {
    restart(house, || {
        let (mut state, range) = record(house);
        let line = String::from_utf8(state[range.clone()].to_vec()).unwrap();
        assert!(line.contains(text), "no {text} in {line}");
        state.splice(range, line.replacen(text, other, 1).into_bytes());
        fs::write(state_file(house), state).unwrap();
    })
    .await;
}

/// Waits until the service has written this into its log.
async fn says(house: &House, words: &str) {
    house.daemon().logs(words).await;
}

/// The record's path can be read: the disk stays locked until an administrator releases it, over the
/// next crash as well.
#[tokio::test]
async fn a_disk_that_a_damaged_record_names_is_locked_again() {
    for (text, other) in [
        ("\"since\"", "\"sinze\""),
        ("\"uid\":0", "\"uid\":1"),
        ("\"number\":1,", "\"number\":7,"),
        ("\"inode\"", "\"knode\""),
        ("hx ", "ix "),
        ("hx ", "h? "),
    ] {
        let scene = Scene::set(exclusive).await;
        scene.damage(text, other).await;
        scene.is_suspect().await;
        let said = scene.house.daemon().stderr();
        assert!(said.contains("no descriptors are stored"), "{said}");
        assert!(!said.contains("what nothing is known of stays locked"), "{said}");
        scene.restart(|| ()).await;
        assert_eq!(scene.owners().await, [SUSPECT], "{text}");
        let found = json(&scene.house, &["list"]).await;
        let suspect = found.as_array().unwrap().iter().find(|lock| lock["name"] == SUSPECT);
        let number = suspect.unwrap()["generation"].to_string();
        vmlockctl(&scene.house, &["release", &number]).await.ok();
        assert_free(&scene.disk);
    }
}

#[tokio::test]
async fn doctor_says_what_to_do_about_suspects() {
    let scene = Scene::set(shared).await;
    scene.damage("\"since\"", "\"sinze\"").await;
    scene.says("it is locked again as suspect").await;
    let ran = scene.house.run("vmlockctl", &["doctor"]).await;
    let line = ran.stdout.lines().find(|line| line.contains("damaged records name")).unwrap();
    assert!(line.starts_with("DANGER") && line.contains("vmlockctl unlock"), "{line}");
    let uuid = line.rsplit(['\'', ' ']).find(|word| word.len() == 36).unwrap();
    vmlockctl(&scene.house, &["unlock", uuid]).await.ok();
    assert_free(&scene.disk);
}

/// The identity is damaged, and another digit is as good: the path counts as well.
#[tokio::test]
async fn a_damaged_identity_does_not_free_the_disk() {
    let scene = Scene::set(exclusive).await;
    let ino = {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(&scene.disk).unwrap().ino()
    };
    scene.damage(&format!("\"ino\":{ino}"), &format!("\"ino\":{}", ino + 1_000_000)).await;
    let locked = format!("a damaged lock record names {}: it is locked again", str(&scene.disk));
    scene.says(&locked).await;
    Rival::try_once(&scene.disk, Kind::Posix, true).unwrap_err();
}

/// A foreign holder has locked the disk meanwhile, and the log says that.
#[tokio::test]
async fn a_disk_that_a_foreign_holder_has_is_reported_as_lost() {
    for damage in [("\"since\"", "\"sinze\""), ("\"inode\"", "\"knode\"")] {
        let scene = Scene::set(exclusive).await;
        let (mut state, range) = scene.record();
        let line = String::from_utf8(state[range.clone()].to_vec()).unwrap();
        state.splice(range, line.replacen(damage.0, damage.1, 1).into_bytes());
        let mut rival = None;
        scene
            .restart(|| {
                fs::write(scene.state(), state).unwrap();
                rival = Some(Rival::hold(&scene.disk, Kind::Posix, true).unwrap());
            })
            .await;
        scene.says("lost").await;
        let other = Machine::open(&scene.bus, "web2").await;
        other.acquire(&[exclusive(&scene.disk)]).await.unwrap_err();
    }
}

/// One of the names is damaged: the others tell which disk it is.
#[tokio::test]
async fn a_damaged_path_is_outvoted() {
    for key in ["path", "canonical", "resource"] {
        let scene = Scene::set(exclusive).await;
        let nothing = scene.disk.with_file_name("nothing");
        let field = |path: &Path| format!("\"{key}\":\"{}\"", str(path));
        scene.damage(&field(&scene.disk), &field(&nothing)).await;
        scene.is_suspect().await;
        assert!(!nothing.exists());
    }
}

/// All names are damaged. Whatever they lead to, nothing is created, nothing hangs, and what is no disk
/// is not locked.
#[tokio::test]
async fn damaged_paths_do_no_harm() {
    for other in ["fifo", "folder", "nothing", "link"] {
        let scene = Scene::set(exclusive).await;
        let path = scene.disk.with_file_name(other);
        match other {
            "fifo" => mkfifo(&path, Mode::S_IRWXU).unwrap(),
            "folder" => fs::create_dir(&path).unwrap(),
            "link" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
            _ => {}
        }
        scene
            .restart(|| {
                let (mut state, range) = scene.record();
                let line = String::from_utf8(state[range.clone()].to_vec()).unwrap();
                let line = line.replace(str(&scene.disk), str(&path));
                state.splice(range, line.into_bytes());
                fs::write(scene.state(), state).unwrap();
            })
            .await;
        scene.says("which cannot be locked again").await;
        assert_eq!(path.symlink_metadata().is_ok(), other != "nothing");
        // The identity that the record names stays reserved: its VM may be writing there.
        let refused = fails(&scene.house, 75, &["lock", str(&scene.disk)]).await;
        assert!(refused.contains("VM \"suspect\""), "{refused}");
        assert!(scene.disk.exists());
    }
}

/// Any byte of the record.
#[tokio::test]
async fn whatever_byte_is_damaged_the_disk_is_locked_or_the_log_says_that_it_is_not() {
    let scene = Scene::set(exclusive).await;
    let (_, range) = scene.record();
    for at in (0..range.len()).step_by(23) {
        let scene = Scene::set(exclusive).await;
        let (mut state, range) = scene.record();
        if at >= range.len() {
            break;
        }
        state[range.start + at] ^= 1;
        scene.restart(|| fs::write(scene.state(), &state).unwrap()).await;
        scene.says("and no descriptors are stored").await;
        let told = async {
            loop {
                let said = scene.house.daemon().stderr();
                let locked = Rival::try_once(&scene.disk, Kind::Posix, true).is_err();
                let lost = said.contains("cannot be locked again") || said.contains("suspects=0");
                if locked || lost {
                    return;
                }
            }
        };
        within(&format!("byte {at}"), told).await;
    }
}

/// Its storage does not answer when the service is started again, and does so later.
#[tokio::test]
async fn a_disk_whose_storage_does_not_answer_is_locked_again_once_it_does() {
    let house = House::builder().start().await;
    let Some(far) = Far::mount(&house).await else { return };
    let (bus, disk) = (house.connection().await, far.disk());
    let web1 = Machine::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    restart(&house, || {
        far.stop();
        let (mut state, range) = record(&house);
        let line = String::from_utf8(state[range.clone()].to_vec()).unwrap();
        state.splice(range, line.replacen("\"inode\"", "\"knode\"", 1).into_bytes());
        fs::write(state_file(&house), state).unwrap();
    })
    .await;
    says(&house, "which is locked again as soon as its storage responds").await;
    far.go_on();
    says(&house, &format!("a damaged lock record names {}: it is locked again", str(&disk))).await;
    let web2 = Machine::open(&bus, "web2").await;
    let refused = web2.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "VM \"suspect\"");
}

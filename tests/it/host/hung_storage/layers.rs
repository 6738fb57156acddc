//! An overlay with a layer on a server that does not answer: each lookup in it hangs.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::task::JoinSet;

use crate::dbus_client::{Refused, TestVm, exclusive, manager};
use crate::fixture::user::ROOT;
use crate::fixture::{Fixture, within};
use crate::methods::none;
use crate::virtlockd::host::hung_mount::HungMount;

use super::metric;

/// More requests than the service has threads.
const MANY: usize = 160;

/// The overlay, and the memory that its upper layer is in.
pub(super) struct Overlay {
    point: PathBuf,
    memory: PathBuf,
}

impl Overlay {
    /// Mounts one. Its lower layer has this name.
    pub(super) fn mount(fixture: &Fixture, lower: &Path) -> Overlay {
        let at = |name: &str| fixture.dir().join(name);
        let (point, memory) = (at("overlay"), at("memory"));
        for directory in [&point, &memory] {
            fs::create_dir(directory).unwrap();
        }
        let (none, flags) = (None::<&str>, MsFlags::empty());
        mount(Some("memory"), &memory, Some("tmpfs"), flags, none).unwrap();
        let overlay = Overlay { point, memory };
        let (upper, work) = (overlay.memory.join("upper"), overlay.memory.join("work"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let [lower, upper, work] = [lower, &upper, &work].map(Path::display);
        let data = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        mount(Some("overlay"), &overlay.point, Some("overlay"), flags, Some(data.as_str()))
            .unwrap();
        assert!(overlay.disk().exists());
        overlay
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.point.join("disk")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        for point in [&self.point, &self.memory] {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

/// Asks many times at once which owners hold a disk.
async fn ask_all(fixture: &Fixture, disk: &Path) -> JoinSet<Result<(), Refused>> {
    let mut all = JoinSet::new();
    let mut managers = Vec::new();
    for _ in 0..4 {
        managers.push(manager(&fixture.connection().await).await);
    }
    for n in 0..MANY {
        let (manager, disk) = (managers[n % managers.len()].clone(), disk.to_owned());
        all.spawn(async move {
            let found = manager.find_holders(disk.to_str().unwrap(), none()).await;
            found.map(drop).map_err(Refused::from)
        });
    }
    all
}

/// Refusals that say which storage does not answer.
async fn are_refused(all: &mut JoinSet<Result<(), Refused>>, count: usize, point: &Path) {
    let said = format!("mount {} has not responded for ", point.display());
    for _ in 0..count {
        let refused = within("a refusal", all.join_next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(refused.name, "DBus.Error.Timeout", "{refused:?}");
        assert!(refused.message.starts_with(&said), "{refused:?}");
    }
}

/// Locks and unlocks another disk.
async fn others_go_on(fixture: &Fixture, name: &str) {
    let bus = fixture.connection().await;
    let other = fixture.raw_of(ROOT, name);
    let web2 = within("an owner is opened", TestVm::open(&bus, "web2")).await;
    let asked = [exclusive(&other)];
    let locks = within("another disk is locked", web2.acquire(&asked)).await.unwrap();
    within("another disk is released", web2.release(&locks)).await.unwrap();
}

/// The mount of the layer is known by the options of the overlay, and is asked before its files are.
#[tokio::test]
async fn a_layer_that_does_not_answer_is_asked_first() {
    let fixture = Fixture::builder().start().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    let at = fixture.dir().join("far");
    let overlay = Overlay::mount(&fixture, &at);
    far.stop();
    let mut all = ask_all(&fixture, &overlay.disk()).await;
    others_go_on(&fixture, "first").await;
    are_refused(&mut all, MANY, &at).await;
    let bus = fixture.connection().await;
    assert_eq!(metric(&bus, "requests-refused-hung").await, 0);
    others_go_on(&fixture, "second").await;
    far.go_on();
    let answers = async {
        let manager = manager(&bus).await;
        while manager.find_holders(overlay.disk().to_str().unwrap(), none()).await.is_err() {}
    };
    within("the storage answers", answers).await;
}

/// The overlay counts as local, since its layer is reached by a link: it gets its share of the threads.
#[tokio::test]
async fn hung_lookups_are_limited_to_a_share_of_the_threads() {
    let fixture = Fixture::builder().start().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    let link = fixture.dir().join("link");
    std::os::unix::fs::symlink(fixture.dir().join("far"), &link).unwrap();
    let overlay = Overlay::mount(&fixture, &link);
    // A name on another mount that leads there counts for the overlay.
    let named = fixture.dir().join("named");
    std::os::unix::fs::symlink(overlay.disk(), &named).unwrap();
    far.stop();
    let mut all = ask_all(&fixture, &named).await;
    others_go_on(&fixture, "first").await;
    are_refused(&mut all, MANY - 32, &overlay.point).await;
    let bus = fixture.connection().await;
    within("they are counted", async { while metric(&bus, "requests-hung").await != 32 {} }).await;
    assert_eq!(metric(&bus, "requests-refused-hung").await, u64::try_from(MANY - 32).unwrap());
    others_go_on(&fixture, "second").await;
    far.go_on();
    while let Some(found) = within("it goes on", all.join_next()).await {
        found.unwrap().unwrap();
    }
}

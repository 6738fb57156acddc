//! Local storage that hangs: it delays only requests for itself, and gets no more than some of the
//! service's threads.

mod layers;
mod names;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::process::Command;
use tokio::task::JoinSet;
use zbus::Connection;

use crate::dbus_client::{Refused, TestVm, exclusive, manager};
use crate::fixture::user::{GAMES, NOBODY, ROOT};
use crate::fixture::{Answer, Fixture, LoopDevice, Tool, polkit, run, within};
use crate::methods::none;

/// A file system on a loop device, of which each new file waits while it is frozen.
struct Storage {
    point: PathBuf,
    frozen: bool,
    _device: LoopDevice,
}

impl Storage {
    async fn mount(point: PathBuf) -> Storage {
        let device = LoopDevice::new();
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F"]).arg(device.node()).stdout(Stdio::null());
        run(make).await.ok();
        std::fs::create_dir(&point).unwrap();
        mount(Some(device.node()), &point, Some("ext4"), MsFlags::empty(), None::<&str>).unwrap();
        Storage { point, frozen: false, _device: device }
    }

    async fn freeze(&mut self) {
        let mut freeze = Command::new("fsfreeze");
        freeze.arg("--freeze").arg(&self.point);
        run(freeze).await.ok();
        self.frozen = true;
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            let mut thaw = std::process::Command::new("fsfreeze");
            let _ = thaw.arg("--unfreeze").arg(&self.point).status();
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.thaw();
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
    }
}

/// A fixture whose lock files are on such storage.
async fn scenario() -> (Fixture, Storage) {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let storage = Storage::mount(fixture.dir().join("local")).await;
    fixture.configure("file_lockspace_dir = \"@DIR@/local/locks\"\n");
    let locks = storage.point.join("locks");
    std::fs::create_dir(&locks).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&locks, private).unwrap();
    let bus = fixture.connection().await;
    manager(&bus).await.reload(none()).await.unwrap();
    // The directory is examined before it is used for the first time.
    let web = TestVm::open(&bus, "first").await;
    web.acquire(&[exclusive(&fixture.raw_of(ROOT, "first"))]).await.unwrap();
    (fixture, storage)
}

/// So many machines that each want a disk of their own; what has become of each is told.
async fn all_at_once(
    fixture: &Fixture,
    bus: &Connection,
    (uid, count): (u32, usize),
) -> JoinSet<Result<(), Refused>> {
    let mut all = JoinSet::new();
    for n in 0..count {
        let machine = TestVm::open(bus, &format!("web{n}")).await;
        let disk = fixture.raw_of(uid, &format!("disk-{uid}-{n}"));
        all.spawn(async move { machine.acquire(&[exclusive(&disk)]).await.map(drop) });
    }
    all
}

async fn metric(bus: &Connection, key: &str) -> u64 {
    let metrics = manager(bus).await.get_metrics(none()).await.unwrap();
    u64::try_from(&metrics[key]).unwrap()
}

fn assert_unresponsive(refused: &Refused, point: &Path) {
    assert_eq!(refused.name, "DBus.Error.Timeout", "{refused:?}");
    // The disk is on another mount, and which of the two hangs is not known.
    let said = format!("mount / or {} has not responded for ", point.display());
    let elsewhere = refused.message.replace("mount /tmp or ", "mount / or ");
    assert!(elsewhere.starts_with(&said), "{refused:?}");
}

#[tokio::test]
async fn hung_local_storage_is_limited_to_a_share_of_the_threads() {
    let (fixture, mut storage) = scenario().await;
    let root = fixture.connection().await;
    let (games, user) = (fixture.connection_as(GAMES).await, fixture.connection_as(NOBODY).await);
    storage.freeze().await;
    let mut of_games = all_at_once(&fixture, &games, (GAMES, 20)).await;
    for _ in 0..12 {
        let refused = within("a refusal", of_games.join_next()).await.unwrap().unwrap();
        assert_unresponsive(&refused.unwrap_err(), &storage.point);
    }
    within("the rest is counted", async { while metric(&root, "requests-hung").await != 8 {} })
        .await;
    assert_eq!(metric(&root, "requests-refused-hung").await, 12);
    // Another user has a share, too, and root more than all users; a further request is refused at
    // once, since the storage has not answered for long.
    let mut of_user = all_at_once(&fixture, &user, (NOBODY, 9)).await;
    let refused = within("a refusal", of_user.join_next()).await.unwrap().unwrap();
    assert_unresponsive(&refused.unwrap_err(), &storage.point);
    let mut of_root = all_at_once(&fixture, &root, (ROOT, 40)).await;
    for _ in 0..24 {
        let refused = within("a refusal", of_root.join_next()).await.unwrap().unwrap();
        assert_unresponsive(&refused.unwrap_err(), &storage.point);
    }
    // Requests for other storage continue.
    let disk = fixture.raw_of(ROOT, "other");
    let leases = format!("lease:{}/none/a", fixture.dir().display());
    manager(&root).await.resolve(&leases, none()).await.unwrap_err();
    within("names are resolved", manager(&root).await.list_locks(none())).await.unwrap();
    drop(disk);

    storage.thaw();
    for all in [&mut of_games, &mut of_user, &mut of_root] {
        while let Some(done) = within("it goes on", all.join_next()).await {
            done.unwrap().unwrap();
        }
    }
    within("nothing is stuck", async { while metric(&root, "requests-hung").await != 0 {} }).await;
    TestVm::open(&games, "after").await;
}

#[tokio::test]
async fn a_waiting_run_names_the_hung_mount() {
    let (fixture, mut storage) = scenario().await;
    storage.freeze().await;
    let disk = fixture.raw_of(ROOT, "disk");
    let mut command = fixture.command("sh");
    let program = crate::fixture::program("vmlockctl");
    command.args(["-c", "exec \"$@\" 2>&1", "sh", program.to_str().unwrap()]);
    command.args(["run", "--wait", "--disk", disk.to_str().unwrap(), "--", "echo", "started"]);
    let mut tool = Tool::new(command, &fixture.dir().join("run.log"));
    let said = tool.line().await;
    let wanted = format!("vmlockctl: no answer about {} for 5 s", disk.display());
    assert!(said.starts_with(&wanted), "{said}");
    storage.thaw();
    assert_eq!(tool.line().await, "started");
}

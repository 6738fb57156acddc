//! Loop devices whose range in their file changes while they are locked: no lock is lost, and it is
//! reported that two locks cover the same data.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use zbus::Connection;

use super::*;
use crate::cli::{json, str, vmlockctl};
use crate::fixture::{ForeignHolder, LockType, StateImage, field};
use crate::nspawn::{Host, Tree};
use crate::snapshot::{Listed, text};

const KIB: u64 = 1024;
const QUARTER: u64 = 256 * KIB;

/// `web1` has a device that was on the first quarter of a file, and is on the third now, which `web2` has.
/// `web3` has the first quarter since.
struct Scenario {
    bus: Connection,
    web1: TestVm,
    web2: TestVm,
    _web3: TestVm,
    disks: Disks,
    /// The root directory of the service.
    root: PathBuf,
}

struct Disks {
    moved: LoopDevice,
    third: LoopDevice,
    first: LoopDevice,
    /// A part of the third quarter, and one of the first.
    within: [LoopDevice; 2],
    file: LoopDevice,
}

impl Disks {
    fn new() -> Disks {
        let file = LoopDevice::new();
        let range = |start, length| LoopDevice::attach_range(&file.file(), start, length);
        Disks {
            moved: range(0, QUARTER),
            third: range(2 * QUARTER, QUARTER),
            first: range(0, QUARTER),
            within: [range(2 * QUARTER + 64 * KIB, KIB), range(64 * KIB, KIB)],
            file,
        }
    }

    fn nodes(&self) -> [&Path; 6] {
        let [within, other] = &self.within;
        [&self.moved, &self.third, &self.first, within, other, &self.file].map(LoopDevice::node)
    }
}

impl Scenario {
    async fn set_up(bus: Connection) -> Scenario {
        Scenario::of(bus, Disks::new(), Path::new("/")).await
    }

    async fn of(bus: Connection, disks: Disks, root: &Path) -> Scenario {
        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
        web1.acquire(&[exclusive(disks.moved.node())]).await.unwrap();
        web2.acquire(&[exclusive(disks.third.node())]).await.unwrap();
        disks.moved.set_offset(2 * QUARTER);
        let web3 = TestVm::open(&bus, "web3").await;
        web3.acquire(&[exclusive(disks.first.node())]).await.unwrap();
        let root = root.to_owned();
        Scenario { bus, web1, web2, _web3: web3, disks, root }
    }

    /// The owners of the locks on a disk, each with whether it is told that there is a conflict.
    async fn on(&self, disk: &Path) -> Vec<(String, bool)> {
        let checked = option("check-names", true);
        let rows = manager(&self.bus).await.list_locks(checked).await.unwrap();
        let on = rows.iter().filter(|row| text(row, "resource") == str(disk));
        on.map(|row| (text(row, "name"), row.contains_key("conflict"))).collect()
    }

    /// Nothing is lost, two locks are in conflict, and no other owner gets what any of the three covers.
    async fn stays(&self, first_owner: &str) {
        let told = |name: &str, conflict| vec![(name.to_owned(), conflict)];
        let Disks { moved, third, first, within, file } = &self.disks;
        assert_eq!(self.on(moved.node()).await, told(first_owner, true));
        assert_eq!(self.on(third.node()).await, told("web2", true));
        assert_eq!(self.on(first.node()).await, told("web3", false));
        let other = TestVm::open(&self.bus, "other").await;
        let [in_third, in_first] = within;
        for (disk, holders) in [
            (in_third.node(), &[first_owner, "web2"][..]),
            (in_first.node(), &["web3"]),
            (file.node(), &[first_owner, "web2", "web3"]),
        ] {
            for disk_request in [exclusive(disk), shared(disk)] {
                let refused = other.acquire(&[disk_request]).await.unwrap_err();
                for holder in holders {
                    assert_refused(&refused, "LockHeld", &format!("by VM \"{holder}\""));
                }
            }
        }
        for disk in [moved, third, first] {
            let node = self.root.join(disk.node().strip_prefix("/").unwrap());
            ForeignHolder::try_once(&node, LockType::Ofd, true).unwrap_err();
        }
        other.owner.close(none()).await.unwrap();
    }
}

async fn restart(fixture: &Fixture) {
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
}

/// The locks are in the kernel again.
async fn verified(bus: &Connection) {
    let all = async || {
        let rows = manager(bus).await.list_locks(none()).await.unwrap();
        rows.iter().all(|row| bool::try_from(&row["verified"]).unwrap())
    };
    within("all locks verified", async { while !all().await {} }).await;
}

#[tokio::test]
async fn locks_that_cover_the_same_data_outlive_every_restart() {
    let fixture = Fixture::builder().start().await;
    let scenario = Scenario::set_up(fixture.connection().await).await;
    scenario.stays("web1").await;
    vmlockctl(&fixture, &["reexec"]).await.ok();
    scenario.stays("web1").await;
    for _ in 0..2 {
        restart(&fixture).await;
        verified(&scenario.bus).await;
        scenario.stays("web1").await;
    }
    // A transferred lock is recorded with its current range.
    let target = TestVm::open(&scenario.bus, "target").await;
    let token = scenario.web1.owner.offer(none()).await.unwrap();
    target.owner.adopt(&token, none()).await.unwrap();
    scenario.stays("target").await;
    vmlockctl(&fixture, &["reexec"]).await.ok();
    scenario.stays("target").await;
    restart(&fixture).await;
    verified(&scenario.bus).await;
    scenario.stays("target").await;
    // The conflict ends with one of the two.
    scenario.web2.owner.close(none()).await.unwrap();
    assert_eq!(scenario.on(scenario.disks.moved.node()).await, [("target".to_owned(), false)]);
}

/// No lock was granted since the device was moved: it is noticed by who asks.
#[tokio::test]
async fn list_who_and_doctor_report_two_locks_on_the_same_data() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let file = LoopDevice::new();
    let range = |start| LoopDevice::attach_range(&file.file(), start, QUARTER);
    let (moved, third) = (range(0), range(2 * QUARTER));
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.acquire(&[exclusive(moved.node())]).await.unwrap();
    web2.acquire(&[exclusive(third.node())]).await.unwrap();
    let doctor = async || fixture.run("vmlockctl", &["doctor"]).await;
    assert!(!doctor().await.stdout.contains("another owner"));
    moved.set_offset(2 * QUARTER);
    let who = vmlockctl(&fixture, &["who", str(moved.node())]).await.ok();
    assert_eq!(who.matches("another owner has a lock on the same data").count(), 2, "{who}");
    assert!(who.contains("VM \"web1\"") && who.contains("VM \"web2\""), "{who}");
    let list = vmlockctl(&fixture, &["list"]).await.ok();
    assert_eq!(list.matches("CONFLICT").count(), 2, "{list}");
    let rows = json(&fixture, &["list"]).await;
    assert!(rows.as_array().unwrap().iter().all(|row| row["conflict"] == true), "{rows}");
    let show = vmlockctl(&fixture, &["show", str(moved.node())]).await.ok();
    assert!(show.contains("conflict:"), "{show}");
    let told = doctor().await;
    let of = |line: &&str| line.starts_with("DANGER") && line.contains("another owner has locked");
    assert_eq!(told.stdout.lines().filter(of).count(), 2, "{}", told.stdout);
    assert_eq!(told.status.code(), Some(1));
    moved.set_offset(0);
    assert!(!doctor().await.stdout.contains("another owner has locked"));
}

/// The record of a lock is damaged, and its descriptor is kept: what the disk lies on is known without.
#[tokio::test]
async fn a_recovered_lock_on_a_partition_keeps_its_device_from_others() {
    let mut device = LoopDevice::new();
    let (part, other) = (device.part(64, 64), device.part(256, 64));
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.acquire(&[exclusive(&part)]).await.unwrap();
    let state = fixture.launch().runtime_dir.join("state");
    let image = StateImage::read(&state);
    let at = image.offset(&image.last_lock(), field::LOCK);
    let file = std::fs::File::options().write(true).open(&state).unwrap();
    file.write_all_at(&[image.bytes[at] ^ 1], at as u64).unwrap();
    vmlockctl(&fixture, &["reexec"]).await.ok();
    for disk in [device.node(), &device.file(), &part] {
        let refused = web2.acquire(&[exclusive(disk)]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "VM \"recovered\"");
    }
    web2.acquire(&[exclusive(&other)]).await.unwrap();
}

/// A device that was detached and set up on the disk of another VM, while only its lock file was locked.
#[tokio::test]
async fn a_device_attached_again_to_a_locked_disk_is_reported() {
    let config = "file_lockspace_dir = \"@DIR@/locks\"\n";
    let fixture = Fixture::builder().folder("locks").config(config).start().await;
    let bus = fixture.connection().await;
    let (one, other) = (LoopDevice::new(), LoopDevice::new());
    let moved = LoopDevice::attach(&one.file());
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.acquire(&[exclusive(moved.node())]).await.unwrap();
    web2.acquire(&[exclusive(&other.file())]).await.unwrap();
    moved.set_up_anew(&other.file());
    for restarted in [false, true] {
        if restarted {
            restart(&fixture).await;
        }
        let rows = json(&fixture, &["list"]).await;
        assert!(rows.as_array().unwrap().iter().all(|row| row["conflict"] == true), "{rows}");
        let web3 = TestVm::open(&bus, "web3").await;
        for disk in [moved.node(), other.node(), &other.file()] {
            let refused = web3.acquire(&[exclusive(disk)]).await.unwrap_err();
            assert_refused(&refused, "LockHeld", "VM \"web1\"");
        }
        assert_eq!(Listed::by(&bus).await.locks.len(), 2);
        web3.owner.close(none()).await.unwrap();
    }
}

/// The locks are kept where systemd stores the descriptors, too.
#[tokio::test]
async fn locks_that_cover_the_same_data_are_kept_by_the_store() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    host.drop_in("devices", "[Service]\nRestartSec=50ms\n").await;
    let main = host.enable().await;
    let mut watch = host.watch().await;
    let disks = Disks::new();
    for node in disks.nodes() {
        let number = LoopDevice::number(node);
        let (major, minor) = number.split_once(':').unwrap();
        host.run(&["mknod", "-m", "600", str(node), "b", major, minor]).await.ok();
    }
    let scenario = Scenario::of(host.bus().await, disks, &host.root()).await;
    scenario.stays("web1").await;
    main.signal(nix::sys::signal::Signal::SIGKILL);
    host.successor(&mut watch, main).await;
    scenario.stays("web1").await;
}

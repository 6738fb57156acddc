//! Block devices that the host uses itself.

use std::process::Stdio;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;
use crate::fixture::{rpc, run};

/// A file system on a device, mounted in the fixture.
pub(super) struct MountedDevice(pub(super) std::path::PathBuf);

impl MountedDevice {
    pub(super) async fn of(fixture: &Fixture, device: &Path) -> MountedDevice {
        let mut make = tokio::process::Command::new("mkfs.ext4");
        make.args(["-q", "-F"]).arg(device).stdout(Stdio::null());
        run(make).await.ok();
        let place = fixture.dir().join("a b");
        std::fs::create_dir(&place).unwrap();
        let none = None::<&str>;
        mount(Some(device), &place, Some("ext4"), MsFlags::empty(), none).unwrap();
        MountedDevice(place)
    }
}

impl Drop for MountedDevice {
    fn drop(&mut self) {
        let unmounted = umount2(&self.0, MntFlags::empty());
        // A mount namespace that was created meanwhile, as in other tests, has a copy there.
        let fixture = self.0.parent().unwrap().to_str().unwrap();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let mounts = std::fs::read_to_string(entry.path().join("mountinfo"));
            if mounts.is_ok_and(|mounts| mounts.contains(fixture)) {
                let pid = entry.file_name();
                let mut there = std::process::Command::new("nsenter");
                let _ = there
                    .arg("--mount")
                    .arg("--target")
                    .arg(pid)
                    .arg("umount")
                    .arg(&self.0)
                    .output();
            }
        }
        if !std::thread::panicking() {
            unmounted.expect("nothing of the test is open there any more");
        }
    }
}

#[tokio::test]
async fn a_mounted_device_is_refused_unless_forced() {
    let config = "virtlockd_socket = \"@DIR@/virtlockd-sock\"\nrelease_grace = 0\n";
    let device = LoopDevice::new();
    let fixture = Fixture::builder().config(config).start().await;
    let bus = fixture.connection().await;
    let node = device.node();
    let mounted = MountedDevice::of(&fixture, node).await;
    let said = format!("this host uses it (mounted on {}), and 'in-use'", mounted.0.display());
    let web1 = TestVm::open(&bus, "web1").await;
    let disk_request = [exclusive(node)];
    let open = std::fs::File::options().read(true).write(true).open(node).unwrap();
    let resources = || option("resources", disk_request.to_vec());
    for refused in [
        web1.acquire(&disk_request).await.unwrap_err(),
        web1.acquire_files(&[(&open, "exclusive")]).await.unwrap_err(),
        TestVm::open_with(&bus, "", "web2", resources()).await.unwrap_err(),
        web1.owner.acquire(&disk_request, option("in-use", false)).await.unwrap_err().into(),
    ] {
        assert_refused(&refused, "NotLockable", &said);
    }
    assert_eq!(manager(&bus).await.n_locks().await.unwrap(), 0);
    // Reading does no harm, and its file is not it.
    let locks = web1.acquire(&[shared(node)]).await.unwrap();
    let reads = lock(&bus, &locks[0]).await;
    let refused = reads.convert("exclusive", none()).await.unwrap_err().into();
    assert_refused(&refused, "NotLockable", &said);
    assert_eq!(reads.mode().await.unwrap(), "shared");
    reads.convert("exclusive", option("in-use", true)).await.unwrap();
    web1.release(&locks).await.unwrap();
    let locks = web1.owner.acquire(&disk_request, option("in-use", true)).await.unwrap();
    web1.release(&locks).await.unwrap();
    let mut options = resources();
    options.insert("in-use", true.into());
    drop(TestVm::open_with(&bus, "", "web2", options).await.unwrap());

    // The result is the same with the command line, and virtlockd's socket has no way to force it.
    let disk = node.to_str().unwrap();
    let refused = fixture.run("vmlockctl", &["lock", disk]).await.refused();
    let said = said.replace("'in-use'", "--in-use");
    assert!(refused.contains(&said), "{refused}");
    fixture.run("vmlockctl", &["run", "--in-use", "--disk", disk, "--", "true"]).await.ok();
    fixture.run("vmlockctl", &["lock", "--in-use", "--wait=1h", disk]).await.ok();
    fixture.run("vmlockctl", &["unlock", disk]).await.ok();
    let mut libvirt = rpc::Rpc::connect(&fixture.dir().join("virtlockd-sock")).unwrap();
    libvirt.register(&rpc::Owner::new("web3", 3, std::process::id())).granted();
    libvirt.acquire("", disk, 0).granted();
    libvirt.release("", disk, 0).granted();

    drop(mounted);
    web1.acquire(&disk_request).await.unwrap();
}

#[tokio::test]
async fn a_disk_is_in_use_where_a_part_of_it_is() {
    let mut device = LoopDevice::new();
    let (one, two) = (device.part(64, 1024), device.part(1200, 64));
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let mounted = MountedDevice::of(&fixture, &one).await;
    let web1 = TestVm::open(&bus, "web1").await;
    let said = format!("mounted on {}", mounted.0.display());
    for disk in [device.node(), &one] {
        let refused = web1.acquire(&[exclusive(disk)]).await.unwrap_err();
        assert_refused(&refused, "NotLockable", &said);
    }
    web1.acquire(&[exclusive(&two)]).await.unwrap();
    // Nothing is left of the question: it can be mounted and unmounted.
    drop(mounted);
    web1.acquire(&[exclusive(device.node())]).await.unwrap();
}

/// The refusal of a disk in whatever way it is asked for.
async fn refused_as_used(fixture: &Fixture, disk: &Path, use_: &str) {
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web9").await;
    let said = format!("this host uses it ({use_}");
    let open = std::fs::File::options().read(true).write(true).open(disk).unwrap();
    for refused in [
        machine.acquire(&[exclusive(disk)]).await.unwrap_err(),
        machine.acquire_files(&[(&open, "exclusive")]).await.unwrap_err(),
    ] {
        assert_refused(&refused, "NotLockable", &said);
    }
    let locks = machine.acquire(&[shared(disk)]).await.unwrap();
    let reads = lock(&bus, &locks[0]).await;
    let refused = reads.convert("exclusive", none()).await.unwrap_err().into();
    assert_refused(&refused, "NotLockable", &said);
    reads.convert("exclusive", option("in-use", true)).await.unwrap();
    machine.release(&locks).await.unwrap();
    let insisted = machine.owner.acquire(&[exclusive(disk)], option("in-use", true)).await;
    machine.release(&insisted.unwrap()).await.unwrap();
}

/// A machine gets a disk, and gives it up.
async fn had(fixture: &Fixture, disk: &Path) {
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web8").await;
    let locks = machine.acquire(&[exclusive(disk)]).await.unwrap();
    machine.release(&locks).await.unwrap();
}

#[tokio::test]
async fn a_file_is_in_use_where_a_loop_device_on_it_is() {
    let device = LoopDevice::new();
    let (file, upper) = (device.file(), LoopDevice::attach_range(device.node(), 256 << 10, 0));
    let (before, across) = (
        LoopDevice::attach_range(&file, 0, 256 << 10),
        LoopDevice::attach_range(&file, 128 << 10, 256 << 10),
    );
    let fixture = Fixture::builder().start().await;
    // An unused loop device is not a use.
    had(&fixture, &file).await;
    let mounted = MountedDevice::of(&fixture, upper.node()).await;
    let place = mounted.0.display();
    let used = format!("mounted on {place} through {}), and", upper.node().display());
    for disk in [file.as_path(), device.node(), across.node()] {
        refused_as_used(&fixture, disk, &used).await;
    }
    refused_as_used(&fixture, upper.node(), &format!("mounted on {place}), and")).await;
    // It has no byte of what is mounted.
    had(&fixture, before.node()).await;
    drop(mounted);
    for disk in [&file, device.node(), upper.node(), across.node()] {
        had(&fixture, disk).await;
    }
}

#[tokio::test]
async fn a_file_is_in_use_where_a_partition_of_a_loop_device_is() {
    let mut device = LoopDevice::new();
    let (one, two) = (device.part(64, 1024), device.part(1200, 64));
    let twin = LoopDevice::attach(&device.file());
    let fixture = Fixture::builder().start().await;
    let mounted = MountedDevice::of(&fixture, &one).await;
    let used = format!("mounted on {} through {}", mounted.0.display(), one.display());
    refused_as_used(&fixture, &device.file(), &used).await;
    refused_as_used(&fixture, twin.node(), &used).await;
    had(&fixture, &two).await;
    drop(mounted);
    had(&fixture, &device.file()).await;
}

#[tokio::test]
async fn a_file_whose_lock_is_elsewhere_is_in_use_all_the_same() {
    let device = LoopDevice::new();
    let fixture = Fixture::builder().folder("locks").config("file_lockspace_dir = \"@DIR@/locks\"");
    let fixture = fixture.start().await;
    let mounted = MountedDevice::of(&fixture, device.node()).await;
    refused_as_used(&fixture, &device.file(), &format!("mounted on {}", mounted.0.display())).await;
    drop(mounted);
    had(&fixture, &device.file()).await;
}

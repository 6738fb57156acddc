//! Lock files named by a volume's UUID or a disk's id.
//!
//! There is neither a volume nor a SCSI disk here: a loop device is taken for one by a service that sees
//! another `/sys/dev/block`, and another `scsi_id`. The real ones are tested where a kernel has them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use nix::sys::stat::{Mode, SFlag, mknod};

use super::*;
use crate::fixture::{Daemon, Launch, rpc};

const VOLUME: &str = "aB3dE6-fG8h-J0kL-2mN4-pQ6r-S8tU-0vW2xY";
const DISK: &str = "35000c500a1b2c3d4";
const CONFIG: &str = "\
virtlockd_socket = \"@DIR@/virtlockd-sock\"
release_grace = 0
lvm_lockspace_dir = \"@DIR@/lvm\"
scsi_lockspace_dir = \"@DIR@/scsi\"
file_lockspace_dir = \"@DIR@/file\"
";

struct Scenario {
    daemon: Daemon,
    volume: LoopDevice,
    disk: LoopDevice,
    other: LoopDevice,
    fixture: Fixture,
}

impl Scenario {
    async fn set_up() -> Scenario {
        let fixture = Fixture::builder().folder("lvm").folder("scsi").folder("file").config(CONFIG);
        let fixture = fixture.without_daemon().start().await;
        let device = |name| LoopDevice::attach(&fixture.raw_of(0, name));
        let (volume, disk, other) = (device("volume"), device("disk"), device("other"));
        let dir = fixture.dir();
        // The link that the kernel has there leads into a folder of the device.
        let told = |device: &LoopDevice, file: &str, content: &str| {
            let file = dir.join("block").join(LoopDevice::number(device.node())).join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        };
        let group = "3Yp7mJ1nQ0Wc2sT4vX6zA8bD9eF5gH2k";
        told(&volume, "dm/uuid", &format!("LVM-{group}{}\n", VOLUME.replace('-', "")));
        for (number, device) in [&volume, &disk, &other].into_iter().enumerate() {
            told(device, "diskseq", &format!("{}\n", number + 1));
        }
        let tool = dir.join("udev/scsi_id");
        fs::create_dir(dir.join("udev")).unwrap();
        let runs = dir.join("runs");
        let number = LoopDevice::number(disk.node());
        let script = format!(
            "#!/bin/sh\necho run >> {}\n\
             [ \"$(stat -L -c %Hr:%Lr /proc/self/fd/0)\" = {number} ] || exit 1\necho {DISK}\n",
            runs.display()
        );
        fs::write(&tool, script).unwrap();
        fs::set_permissions(&tool, Permissions::from_mode(0o755)).unwrap();
        let script = "mount --bind \"$1/block\" /sys/dev/block
            mkdir -p /usr/lib/udev && mount --bind \"$1/udev\" /usr/lib/udev
            [ -e /lib/udev/scsi_id ] || mount --bind \"$1/udev\" /lib/udev
            shift; exec \"$@\"";
        let mut inside =
            ["unshare", "--mount", "sh", "-euc", script, "sh"].map(str::to_owned).to_vec();
        inside.push(dir.display().to_string());
        let launch = Launch { inside, ..fixture.launch() };
        let daemon = Daemon::start(fixture.bus(), launch).await;
        Scenario { daemon, volume, disk, other, fixture }
    }

    fn lock_files(&self, lockspace: &str) -> Vec<String> {
        let files = fs::read_dir(self.fixture.dir().join(lockspace)).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        // The service may be trying locks with a hidden file.
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

/// A second node of a device, below `/dev`, where such a name counts.
struct Node(PathBuf);

impl Node {
    fn of(device: &LoopDevice) -> Node {
        let seen = fs::metadata(device.node()).unwrap();
        let name = format!("/dev/vmlockd-test-{}-{}", std::process::id(), seen.rdev());
        mknod(Path::new(&name), SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, seen.rdev())
            .unwrap();
        Node(name.into())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_volume_and_a_scsi_disk_have_the_lock_files_that_libvirt_names() {
    let scenario = Scenario::set_up().await;
    let bus = scenario.fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.owner.bind_pid(std::process::id(), none()).await.unwrap();
    for (device, lockspace, kind, name) in
        [(&scenario.volume, "lvm", "lvm", VOLUME), (&scenario.disk, "scsi", "scsi", DISK)]
    {
        let second = Node::of(device);
        let lock_file = scenario.fixture.dir().join(lockspace).join(name);
        for node in [device.node(), &second.0] {
            let found = manager(&bus).await.resolve(node.to_str().unwrap(), none()).await.unwrap();
            let found = <&str>::try_from(&found["lock-file"]).unwrap();
            assert_eq!(Path::new(found), lock_file);
            let locks = web1.acquire(&[exclusive(node)]).await.unwrap();
            assert_eq!(scenario.lock_files(lockspace), [name]);
            let its = lock(&bus, &locks[0]).await;
            assert_eq!(its.lock_file().await.unwrap(), lock_file.to_str().unwrap());
            let object = format!("/org/vmlockd1/lockspace/{kind}");
            assert_eq!(its.lockspace().await.unwrap().as_str(), object);
            for other in [device.node(), &second.0] {
                let refused = web2.acquire(&[exclusive(other)]).await.unwrap_err();
                assert_refused(&refused, "LockHeld", "web1");
            }
            // libvirt names the directory and the key.
            let mut libvirt =
                rpc::Rpc::connect(&scenario.fixture.dir().join("virtlockd-sock")).unwrap();
            libvirt.register(&rpc::Owner::new("web3", 3, std::process::id())).granted();
            let directory = scenario.fixture.dir().join(lockspace);
            let directory = directory.to_str().unwrap();
            libvirt.create_lockspace(directory).granted();
            libvirt.acquire(directory, name, rpc::AUTOCREATE).refused();
            web1.release(&locks).await.unwrap();
            assert!(scenario.lock_files(lockspace).is_empty());
            libvirt.acquire(directory, name, rpc::AUTOCREATE).granted();
            let refused = web2.acquire(&[exclusive(node)]).await.unwrap_err();
            assert_refused(&refused, "LockHeld", "web3");
            libvirt.release(directory, name, 0).granted();
        }
    }
    // Other disks are named by their paths.
    let locks = web1.acquire(&[exclusive(scenario.other.node())]).await.unwrap();
    assert_eq!(scenario.lock_files("file").len(), 1);
    web1.release(&locks).await.unwrap();
    // Once for each device, for all requests, and not for the volume.
    let runs = fs::read_to_string(scenario.fixture.dir().join("runs")).unwrap();
    assert_eq!(runs.lines().count(), 2);
}

#[tokio::test]
async fn they_are_the_same_after_a_crash_and_when_the_configuration_names_others() {
    let scenario = Scenario::set_up().await;
    let bus = scenario.fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.owner.bind_pid(std::process::id(), none()).await.unwrap();
    let disk_requests = [exclusive(scenario.volume.node()), exclusive(scenario.disk.node())];
    web1.acquire(&disk_requests).await.unwrap();
    let before = (scenario.lock_files("lvm"), scenario.lock_files("scsi"));
    assert_eq!(before, (vec![VOLUME.to_owned()], vec![DISK.to_owned()]));
    // Nothing of it is needed to know what was locked.
    fs::remove_file(scenario.fixture.dir().join("udev/scsi_id")).unwrap();
    scenario.daemon.kill9().await;
    scenario.daemon.start_again().await;
    let bus = scenario.fixture.connection().await;
    let listed = manager(&bus).await.list_locks(none()).await.unwrap();
    assert_eq!(listed.len(), 2);
    for (lock, lockspace) in listed.iter().zip(["lvm", "scsi"]) {
        let object = format!("/org/vmlockd1/lockspace/{lockspace}");
        let there = zbus::ObjectPath::try_from(&*lock["lockspace"]).unwrap();
        assert_eq!(there.as_str(), object);
    }
    let verified = async {
        let all = |locks: &[vmlockd::client::Row]| {
            locks.iter().all(|lock| bool::try_from(&lock["verified"]).unwrap())
        };
        while !all(&manager(&bus).await.list_locks(none()).await.unwrap()) {}
    };
    within("the locks are seen to be there", verified).await;
    scenario.fixture.configure("");
    manager(&bus).await.reload(none()).await.unwrap();
    let web2 = TestVm::open(&bus, "web2").await;
    for disk_request in disk_requests {
        let refused = web2.acquire(&[disk_request]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "web1");
    }
    // A lockspace stays shown while locks refer to it.
    let machine = crate::dbus_client::owner(&bus, web1.path()).await;
    machine.suspend(none()).await.unwrap();
    assert!(scenario.lock_files("lvm").is_empty() && scenario.lock_files("scsi").is_empty());
    machine.resume(none()).await.unwrap();
    assert_eq!((scenario.lock_files("lvm"), scenario.lock_files("scsi")), before);
}

#[tokio::test]
async fn a_disk_without_a_known_id_is_refused() {
    let scenario = Scenario::set_up().await;
    let bus = scenario.fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let tool = scenario.fixture.dir().join("udev/scsi_id");
    let disk_request = [exclusive(scenario.disk.node())];
    for (script, said) in [
        ("echo ../escaped", "its output is not an id"),
        ("exec head -c 10000 /dev/zero", "it wrote more than 4096 bytes"),
        ("kill -9 $$", "it ended with signal: 9"),
    ] {
        fs::write(&tool, format!("#!/bin/sh\n{script}\n")).unwrap();
        let refused = web1.acquire(&disk_request).await.unwrap_err();
        assert_refused(&refused, "NotLockable", "its SCSI id cannot be read: ");
        assert_refused(&refused, "NotLockable", said);
        for lockspace in ["lvm", "scsi", "file"] {
            assert!(scenario.lock_files(lockspace).is_empty(), "{script}");
        }
    }
    fs::remove_file(&tool).unwrap();
    let refused = web1.acquire(&disk_request).await.unwrap_err();
    assert_refused(&refused, "NotLockable", "there is no scsi_id in /lib/udev or /usr/lib/udev");
    // Others are not concerned.
    web1.acquire(&[exclusive(scenario.volume.node())]).await.unwrap();
}

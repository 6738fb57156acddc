//! Loop devices: what they are set up on is what the kernel says, and which bytes of it.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::fixture::TestMount;
use crate::virtlockd::host::hung_mount::HungMount;

const KIB: u64 = 1024;

/// Two machines ask for two disks that share bytes, in both orders; only one gets one.
async fn conflict(fixture: &Fixture, one: &Path, other: &Path, remark: &str) {
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    for (first, second) in [(one, other), (other, one)] {
        let locks = web1.acquire(&[exclusive(first)]).await.unwrap();
        let refused = web2.acquire(&[exclusive(second)]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", &format!("{}{remark}", first.display()));
        web1.release(&locks).await.unwrap();
    }
}

/// Two machines have two disks at once.
async fn coexist(fixture: &Fixture, one: &Path, other: &Path) {
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.acquire(&[exclusive(one)]).await.unwrap();
    let locks = web2.acquire(&[exclusive(other)]).await.unwrap();
    web2.release(&locks).await.unwrap();
    web1.owner.close(none()).await.unwrap();
}

#[tokio::test]
async fn loop_devices_on_one_file_conflict_where_their_ranges_overlap() {
    let whole = LoopDevice::new();
    let file = whole.file();
    let range = |start, length| LoopDevice::attach_range(&file, start * KIB, length * KIB);
    let (first, second, across) = (range(0, 512), range(512, 512), range(256, 512));
    let twin = LoopDevice::attach(&file);
    // Offsets add up: half of what was a half.
    let nested = LoopDevice::attach_range(second.node(), 256 * KIB, 0);
    let last = range(768, 256);
    let fixture = Fixture::builder().start().await;
    for device in [&whole, &twin, &first, &second, &across, &nested] {
        meet(&fixture, &file, device.node()).await;
    }
    for (one, other) in [
        (&whole, &twin),
        (&whole, &first),
        (&first, &across),
        (&across, &second),
        (&nested, &last),
        (&nested, &twin),
    ] {
        conflict(&fixture, one.node(), other.node(), ", which overlaps it").await;
    }
    for (one, other) in [(&first, &second), (&across, &nested), (&across, &last)] {
        coexist(&fixture, one.node(), other.node()).await;
    }
}

#[tokio::test]
async fn partitions_of_two_loop_devices_on_one_file_conflict_where_they_overlap() {
    let mut one = LoopDevice::new();
    let mut other = LoopDevice::attach(&one.file());
    let (first, second) = (one.part(64, 64), one.part(256, 64));
    let again = other.part(100, 64);
    let fixture = Fixture::builder().start().await;
    conflict(&fixture, &first, &again, ", which overlaps it").await;
    conflict(&fixture, one.node(), &again, ", which overlaps it").await;
    coexist(&fixture, &second, &again).await;
}

#[tokio::test]
async fn a_file_that_its_loop_device_does_not_name_any_more_is_still_its_file() {
    let fixture = Fixture::builder().folder("kept").folder("hidden").start().await;
    let at = |name: &str| fixture.dir().join(name);
    let image = |name: &str| {
        let file = fixture.raw_of(0, name);
        fs::File::options().write(true).open(&file).unwrap().set_len(64 * KIB).unwrap();
        file
    };
    let link = |file: &Path| {
        let other = at("kept").join(file.file_name().unwrap());
        fs::hard_link(file, &other).unwrap();
        other
    };
    // Renamed, and another file has its name.
    let renamed = image("renamed");
    let device = LoopDevice::attach(&renamed);
    fs::rename(&renamed, at("moved")).unwrap();
    let innocent = image("renamed");
    meet(&fixture, &at("moved"), device.node()).await;
    coexist(&fixture, &innocent, device.node()).await;
    // Its name was removed, and it has another one.
    let removed = image("removed");
    let (device, other) = (LoopDevice::attach(&removed), link(&removed));
    fs::remove_file(&removed).unwrap();
    meet(&fixture, &other, device.node()).await;
    // Its folder is mounted over, and a file there has its name.
    let hidden = image("hidden/disk");
    let (device, other) = (LoopDevice::attach(&hidden), link(&hidden));
    let over = TestMount::empty_over(&at("hidden"));
    let innocent = image("hidden/disk");
    meet(&fixture, &other, device.node()).await;
    coexist(&fixture, &innocent, device.node()).await;
    drop(over);
}

/// Attaches a file in a mount namespace in which its name leads elsewhere.
fn attach_elsewhere(file: &Path, folder: &Path) -> PathBuf {
    let script = "mount --bind \"$1\" \"$2\" && losetup --find --show \"$2/${3##*/}\"";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-euc", script, "sh"])
        .args([file.parent().unwrap(), folder, file])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

#[tokio::test]
async fn a_loop_device_of_another_mount_namespace_is_on_the_file_that_was_meant_there() {
    let fixture = Fixture::builder().folder("real").folder("seen").start().await;
    let (real, seen) = (fixture.raw_of(0, "real/disk"), fixture.raw_of(0, "seen/disk"));
    for file in [&real, &seen] {
        fs::File::options().write(true).open(file).unwrap().set_len(64 * KIB).unwrap();
    }
    let device = LoopDevice::adopt(attach_elsewhere(&real, seen.parent().unwrap()));
    meet(&fixture, &real, device.node()).await;
    coexist(&fixture, &seen, device.node()).await;
}

#[tokio::test]
async fn which_range_a_loop_device_has_is_known_after_a_crash() {
    let whole = LoopDevice::new();
    let file = whole.file();
    let first = LoopDevice::attach_range(&file, 0, 512 * KIB);
    let second = LoopDevice::attach_range(&file, 512 * KIB, 0);
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.owner.bind_pid(std::process::id(), none()).await.unwrap();
    web1.acquire(&[exclusive(first.node())]).await.unwrap();
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    let bus = fixture.connection().await;
    let web2 = TestVm::open(&bus, "web2").await;
    for (disk, remark) in [(whole.node(), ", which overlaps it"), (&file, ", which lies on it")] {
        let refused = web2.acquire(&[exclusive(disk)]).await.unwrap_err();
        let through = format!("through {}{remark}", first.node().display());
        assert_refused(&refused, "LockHeld", &through);
    }
    web2.acquire(&[exclusive(second.node())]).await.unwrap();
}

#[tokio::test]
async fn a_loop_device_that_got_another_range_while_it_was_waited_for_is_not_granted_as_it_was() {
    let device = LoopDevice::new();
    let moved = LoopDevice::attach(&device.file());
    let before = LoopDevice::attach_range(&device.file(), 0, 512 * KIB);
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let locks = web1.acquire(&[exclusive(moved.node())]).await.unwrap();
    let waiting = wait(&bus, &web2, moved.node()).await;
    moved.set_offset(512 * KIB);
    web1.release(&locks).await.unwrap();
    if let Err(refused) = within("an answer", waiting).await.unwrap() {
        assert_refused(&refused, "ResourceChanged", "was replaced");
        web2.acquire(&[exclusive(moved.node())]).await.unwrap();
    }
    // It holds the range that the device has now.
    web1.acquire(&[exclusive(before.node())]).await.unwrap();
    let refused = web1.acquire(&[exclusive(&device.file())]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "by VM \"web2\"");
}

#[tokio::test]
async fn a_loop_device_that_gets_another_range_while_it_is_held_keeps_others_from_that() {
    let device = LoopDevice::new();
    let held = LoopDevice::attach_range(&device.file(), 0, 256 * KIB);
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.acquire(&[exclusive(held.node())]).await.unwrap();
    let first = LoopDevice::attach_range(&device.file(), 0, 256 * KIB);
    let last = LoopDevice::attach_range(&device.file(), 512 * KIB, 256 * KIB);
    held.set_offset(512 * KIB);
    let refused = web2.acquire(&[exclusive(last.node())]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", ", which overlaps it");
    let locks = web2.acquire(&[shared(first.node())]).await.unwrap();
    // A lock that was granted is not taken away, but it can't become an exclusive one.
    held.set_offset(0);
    let alone = lock(&bus, &locks[0]).await.convert("exclusive", none()).await.unwrap_err();
    assert_refused(&alone.into(), "LockHeld", "by VM \"web1\"");
}

#[tokio::test]
async fn a_loop_device_that_is_not_set_up_is_not_locked() {
    // Others take the device with the lowest number that is free.
    let number = 9000 + std::process::id() % 1000;
    let control = |request: &str| {
        let script = "open(my $control, '+<', '/dev/loop-control') or die $!;
            ioctl($control, hex($ARGV[0]), int($ARGV[1])) // die $!;";
        let number = number.to_string();
        let arguments = ["-e", script, request, &number];
        let status = std::process::Command::new("perl").args(arguments).status();
        assert!(status.unwrap().success());
    };
    control("4C80");
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let node = PathBuf::from(format!("/dev/loop{number}"));
    for disk_request in [exclusive(&node), shared(&node)] {
        let refused = web1.acquire(&[disk_request]).await.unwrap_err();
        assert_refused(&refused, "NotLockable", "this loop device has no file");
    }
    control("4C81");
}

#[tokio::test]
async fn a_loop_device_on_a_hung_file_system_is_refused_and_delays_no_other() {
    let fixture = Fixture::builder().start().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    fs::write(far.disk(), vec![0; 64 << 10]).unwrap();
    let device = LoopDevice::attach(&far.disk());
    let near = LoopDevice::new();
    far.stop();
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let hangs = {
        let (owner, node) = (web1.owner.clone(), device.node().to_owned());
        tokio::spawn(async move { owner.acquire(&[exclusive(&node)], none()).await })
    };
    let locks = web2.acquire(&[exclusive(near.node())]).await.unwrap();
    web2.release(&locks).await.unwrap();
    let refused = within("an answer", hangs).await.unwrap().unwrap_err().into();
    assert_refused(&refused, "NotLockable", "the file system that it lies on is not responding");
    far.go_on();
}

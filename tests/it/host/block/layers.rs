//! Files of overlays that change while they are locked, that other disks lie on, or whose layers are
//! not where they were.

use std::fs::{self, File};
use std::path::PathBuf;

use super::in_use;
use super::overlay::{overlay, overlay_with};
use super::*;

const MIB: u64 = 1 << 20;

/// Makes a file of some length in a folder of the fixture.
pub(super) fn image(fixture: &Fixture, name: &str) -> PathBuf {
    let file = fixture.raw_of(0, name);
    File::options().write(true).open(&file).unwrap().set_len(8 * MIB).unwrap();
    file
}

/// Copies a file up, as an open for writing does.
pub(super) fn copy_up(file: &Path) {
    drop(File::options().write(true).open(file).unwrap());
}

#[tokio::test]
async fn a_loop_device_on_a_file_of_an_overlay_is_on_the_file_of_the_upper_layer() {
    let fixture = Fixture::builder().folder("lower").start().await;
    image(&fixture, "lower/disk");
    let mounted = overlay(&fixture, "lower", "upper", "merged");
    let at = |name: &str| fixture.dir().join(name);
    copy_up(&at("merged/disk"));
    let device = LoopDevice::attach(&at("merged/disk"));
    meet(&fixture, &at("merged/disk"), device.node()).await;
    meet(&fixture, &at("upper/disk"), device.node()).await;
    // The host uses the file where it uses the device.
    let used = in_use::MountedDevice::of(&fixture, device.node()).await;
    let said = format!("mounted on {} through {}", used.0.display(), device.node().display());
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    for file in [at("merged/disk"), at("upper/disk")] {
        let refused = web1.acquire(&[exclusive(&file)]).await.unwrap_err();
        assert_refused(&refused, "NotLockable", &said);
    }
    drop(used);
    // Where its name leads elsewhere, it is not known which file of the overlay it is.
    fs::hard_link(at("merged/disk"), at("merged/other")).unwrap();
    fs::remove_file(at("merged/disk")).unwrap();
    let refused = web1.acquire(&[exclusive(device.node())]).await.unwrap_err();
    assert_refused(
        &refused,
        "NotLockable",
        "cannot find the file that the loop device is set up on",
    );
    drop((device, mounted));
}

#[tokio::test]
async fn a_file_that_is_copied_up_while_it_is_shared_is_found_in_the_upper_layer() {
    let fixture = Fixture::builder().folder("lower").start().await;
    for name in ["lower/one", "lower/two"] {
        image(&fixture, name);
    }
    let mounted = overlay(&fixture, "lower", "upper", "merged");
    let at = |name: &str| fixture.dir().join(name);
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.owner.bind_pid(std::process::id(), none()).await.unwrap();
    web1.acquire(&[shared(&at("merged/one")), shared(&at("merged/two"))]).await.unwrap();
    copy_up(&at("merged/one"));
    assert!(at("upper/one").exists() && !at("upper/two").exists());
    let refuses = async |bus: &Connection, name: &str| {
        let web2 = TestVm::open(bus, "web2").await;
        let refused = web2.acquire(&[exclusive(&at(name))]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", ", which lies on it");
        web2.acquire(&[shared(&at(name))]).await.unwrap();
        web2.owner.close(none()).await.unwrap();
    };
    refuses(&bus, "upper/one").await;
    // Also where that happens after a crash, and where it was seen before it.
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    let bus = fixture.connection().await;
    refuses(&bus, "upper/one").await;
    copy_up(&at("merged/two"));
    for name in ["upper/two", "lower/two"] {
        refuses(&bus, name).await;
    }
    drop(mounted);
}

#[tokio::test]
async fn a_shared_lock_is_not_made_exclusive_while_another_has_the_copy() {
    let config = "file_lockspace_dir = \"@DIR@/locks\"\n";
    let fixture = Fixture::builder().folder("lower").folder("locks").config(config).start().await;
    image(&fixture, "lower/disk");
    let mounted = overlay(&fixture, "lower", "upper", "merged");
    let at = |name: &str| fixture.dir().join(name);
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let locks = web1.acquire(&[shared(&at("merged/disk"))]).await.unwrap();
    copy_up(&at("merged/disk"));
    web2.acquire(&[shared(&at("upper/disk"))]).await.unwrap();
    let refused = lock(&bus, &locks[0]).await.convert("exclusive", none()).await.unwrap_err();
    assert_refused(&refused.into(), "LockHeld", "by VM \"web2\"");
    drop(mounted);
}

#[tokio::test]
async fn an_exclusive_lock_in_a_lockspace_is_on_the_copy_too() {
    let config = "file_lockspace_dir = \"@DIR@/locks\"\n";
    let fixture = Fixture::builder().folder("lower").folder("locks").config(config).start().await;
    image(&fixture, "lower/disk");
    let (one, two) = (
        overlay(&fixture, "lower", "upper1", "merged1"),
        overlay(&fixture, "lower", "upper2", "merged2"),
    );
    let at = |name: &str| fixture.dir().join(name);
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let locks = web1.acquire(&[shared(&at("merged1/disk"))]).await.unwrap();
    assert!(!at("upper1/disk").exists());
    web1.release(&locks).await.unwrap();
    web1.acquire(&[exclusive(&at("merged1/disk"))]).await.unwrap();
    copy_up(&at("merged1/disk"));
    let refused = web2.acquire(&[exclusive(&at("upper1/disk"))]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", ", which lies on it");
    // Two overlays of one lower layer are two disks.
    web2.acquire(&[exclusive(&at("merged2/disk"))]).await.unwrap();
    drop((one, two));
}

#[tokio::test]
async fn a_file_whose_layer_was_renamed_is_refused() {
    let fixture = Fixture::builder().folder("lower").start().await;
    for name in ["lower/disk", "lower/read"] {
        image(&fixture, name);
    }
    let dir = fixture.dir().to_str().unwrap().to_owned();
    let mounted = overlay(&fixture, &format!("{dir}/lower"), &format!("{dir}/upper"), "merged");
    let at = |name: &str| fixture.dir().join(name);
    copy_up(&at("merged/disk"));
    fs::rename(at("upper"), at("elsewhere")).unwrap();
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let refuses = async |disk_request: (&str, &str)| {
        let refused = web1.acquire(&[disk_request]).await.unwrap_err();
        assert_refused(&refused, "NotLockable", "cannot find the layer file");
    };
    let disk = at("merged/disk");
    refuses(exclusive(&disk)).await;
    refuses(shared(&disk)).await;
    // Another directory has the name by now, and another file in it.
    fs::create_dir(at("upper")).unwrap();
    let innocent = image(&fixture, "upper/disk");
    refuses(exclusive(&disk)).await;
    let locks = web2.acquire(&[exclusive(&innocent)]).await.unwrap();
    web2.release(&locks).await.unwrap();
    // A file that was not copied up is still in the lower layer.
    web1.acquire(&[shared(&at("merged/read"))]).await.unwrap();
    let refused = web2.acquire(&[exclusive(&at("lower/read"))]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", ", which lies on it");
    drop(mounted);
}

#[tokio::test]
async fn a_file_whose_data_may_be_in_another_layer_is_refused_unless_it_is_copied_up() {
    let fixture = Fixture::builder().folder("lower").folder("lower/old").start().await;
    for name in ["lower/meta", "lower/old/disk", "lower/old/read"] {
        image(&fixture, name);
    }
    for folder in ["upper", "work"] {
        fs::create_dir(fixture.dir().join(folder)).unwrap();
    }
    let at = |name: &str| fixture.dir().join(name);
    let options = "lowerdir=lower,upperdir=upper,workdir=work,redirect_dir=on,metacopy=on";
    let mounted = overlay_with(&fixture, options, "merged");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(at("merged/meta"), mode).unwrap();
    fs::rename(at("merged/old"), at("merged/new")).unwrap();
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let refuses = async |disk_request: (&str, &str), why: &str| {
        let refused = web1.acquire(&[disk_request]).await.unwrap_err();
        assert_refused(&refused, "NotLockable", why);
    };
    let (meta, moved) = (at("merged/meta"), at("merged/new/disk"));
    refuses(shared(&meta), "metacopy").await;
    refuses(shared(&at("merged/new/read")), "cannot find the layer file").await;
    assert!(!at("upper/new/read").exists());
    // To be written, it has to be copied up with its data.
    for (file, copy) in [(&meta, "upper/meta"), (&moved, "upper/new/disk")] {
        let locks = web1.acquire(&[exclusive(file)]).await.unwrap();
        let refused = web2.acquire(&[exclusive(&at(copy))]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", ", which lies on it");
        web1.release(&locks).await.unwrap();
    }
    drop(mounted);
    // There is no upper layer to copy it to.
    let mounted =
        overlay_with(&fixture, "lowerdir=upper:lower,redirect_dir=follow,metacopy=on", "read");
    for disk_request in [shared(&at("read/meta")), shared(&at("read/new/read"))] {
        refuses(disk_request, "cannot find the layer file").await;
    }
    drop(mounted);
}

//! Disks of which the service cannot find out what they lie on: these are not locked, and neither are those
//! that may lie on the same data.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use super::layers::{copy_up, image};
use super::overlay::{overlay, overlay_with};
use super::*;
use crate::fixture::TestMount;
use crate::virtlockd::host::hung_mount::HungMount;

/// Runs a program, which must succeed; returns what it prints.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Makes a file system with a file `disk` on an image.
fn make_file_system(fixture: &Fixture, image: &Path) {
    let content = fixture.dir().join("content");
    fs::create_dir_all(&content).unwrap();
    fs::write(content.join("disk"), "data").unwrap();
    let [content, image] = [&content, image].map(|path| path.to_str().unwrap());
    run("mkfs.ext4", &["-q", "-O", "^has_journal", "-d", content, image]);
}

/// Mounts a loop device.
fn mount_device(fixture: &Fixture, device: &LoopDevice, at: &str, flags: MsFlags) -> TestMount {
    let at = fixture.dir().join(at);
    fs::create_dir(&at).unwrap();
    mount(Some(device.node()), &at, Some("ext4"), flags, None::<&str>).unwrap();
    TestMount::there(&at)
}

#[tokio::test]
async fn a_file_is_refused_while_the_image_of_its_file_system_does_not_answer() {
    let fixture = Fixture::builder().start().await;
    let Some(far) = HungMount::mount(&fixture).await else { return };
    File::options().write(true).open(far.disk()).unwrap().set_len(8 << 20).unwrap();
    make_file_system(&fixture, &far.disk());
    let device = LoopDevice::attach(&far.disk());
    let mounted = mount_device(&fixture, &device, "files", MsFlags::empty());
    let file = fixture.dir().join("files/disk");
    File::open(&file).unwrap();
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    far.stop();
    let refused = [web1.acquire(&[shared(&file)]).await, web1.acquire(&[exclusive(&file)]).await];
    far.go_on();
    for refused in refused {
        let refused = refused.unwrap_err();
        let said = format!("its file system is on {}: ", device.node().display());
        assert_refused(&refused, "NotLockable", &said);
        assert_refused(
            &refused,
            "NotLockable",
            "the file system that it lies on is not responding",
        );
    }
    // Once it answers, the file can be locked, and its image cannot.
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let locks = web1.acquire(&[exclusive(&file)]).await.unwrap();
    let asked = web2.owner.acquire(&[exclusive(&far.disk())], option("in-use", true)).await;
    assert_refused(&asked.unwrap_err().into(), "LockHeld", ", which lies on it");
    web1.release(&locks).await.unwrap();
    drop((mounted, device));
}

#[tokio::test]
async fn a_file_whose_file_system_is_on_an_overlay_keeps_others_from_the_copy_of_its_image() {
    let fixture = Fixture::builder().folder("lower").start().await;
    let lower = image(&fixture, "lower/image");
    make_file_system(&fixture, &lower);
    let merged = overlay(&fixture, "lower", "upper", "merged");
    let at = |name: &str| fixture.dir().join(name);
    let node =
        run("losetup", &["--find", "--show", "--read-only", at("merged/image").to_str().unwrap()]);
    let device = LoopDevice::adopt(PathBuf::from(node));
    let mounted = mount_device(&fixture, &device, "files", MsFlags::MS_RDONLY);
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let locks = web1.acquire(&[shared(&at("files/disk"))]).await.unwrap();
    let refuses = async |name: &str| {
        let asked = web2.owner.acquire(&[exclusive(&at(name))], option("in-use", true)).await;
        assert_refused(&asked.unwrap_err().into(), "LockHeld", ", which lies on it");
    };
    refuses("lower/image").await;
    copy_up(&at("merged/image"));
    refuses("upper/image").await;
    web1.release(&locks).await.unwrap();
    drop((mounted, device, merged));
}

#[tokio::test]
async fn a_file_is_refused_where_the_layer_of_its_file_systems_image_is_not_found() {
    let fixture = Fixture::builder().folder("lower").folder("upper").start().await;
    let upper = image(&fixture, "upper/image");
    make_file_system(&fixture, &upper);
    let dir = fixture.dir().to_str().unwrap().to_owned();
    let merged = overlay(&fixture, &format!("{dir}/lower"), &format!("{dir}/upper"), "merged");
    let at = |name: &str| fixture.dir().join(name);
    let device = LoopDevice::attach(&at("merged/image"));
    let mounted = mount_device(&fixture, &device, "files", MsFlags::empty());
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    // It is locked while the layer is found, and stays.
    let locks = web1.acquire(&[exclusive(&at("files/disk"))]).await.unwrap();
    fs::rename(at("upper"), at("elsewhere")).unwrap();
    let moved = at("elsewhere/image");
    let asked = web2.owner.acquire(&[exclusive(&moved)], option("in-use", true)).await;
    assert_refused(&asked.unwrap_err().into(), "LockHeld", ", which lies on it");
    web1.release(&locks).await.unwrap();
    for disk_request in [exclusive(&at("files/disk")), shared(&at("files/disk"))] {
        // Earlier results are cached for some seconds.
        fixture.daemon().kill9().await;
        fixture.daemon().start_again().await;
        let bus = fixture.connection().await;
        let web1 = TestVm::open(&bus, "web1").await;
        let refused = web1.acquire(&[disk_request]).await.unwrap_err();
        assert_refused(&refused, "NotLockable", "cannot find the layer file");
    }
    drop((mounted, device, merged));
}

/// Checks that a file of an overlay that is held in shared mode is not given to another owner under the
/// name by which `copy` copies it up.
async fn is_found_where(fixture: &Fixture, merged: &str, copy: impl Fn(), copied: &str) {
    let at = |name: &str| fixture.dir().join(name);
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let locks = web1.acquire(&[shared(&at(merged))]).await.unwrap();
    copy();
    let refused = web2.acquire(&[exclusive(&at(copied))]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", ", which lies on it");
    // Readers do not keep each other out, and it can't be made exclusive.
    let reads = web2.acquire(&[shared(&at(copied))]).await.unwrap();
    let alone = lock(&bus, &reads[0]).await.convert("exclusive", none()).await.unwrap_err();
    assert_refused(&alone.into(), "LockHeld", "by VM \"web1\"");
    web2.release(&reads).await.unwrap();
    // Another file of the layer is not it.
    let innocent = image(fixture, &format!("{copied}.other"));
    let others = web2.acquire(&[exclusive(&innocent)]).await.unwrap();
    web2.release(&others).await.unwrap();
    web1.release(&locks).await.unwrap();
    for owner in [web1, web2] {
        owner.owner.close(none()).await.unwrap();
    }
}

/// Copies files of an overlay up in all ways that change their names, in a fixture with this configuration.
async fn copied_up_under_other_names(config: &str) {
    let fixture = Fixture::builder().folder("lower").folder("locks").config(config).start().await;
    for name in ["renamed", "linked", "hidden", "stacked"] {
        image(&fixture, &format!("lower/{name}"));
    }
    let dir = fixture.dir().to_str().unwrap().to_owned();
    let merged = overlay(&fixture, &format!("{dir}/lower"), &format!("{dir}/upper"), "merged");
    let at = |name: &str| fixture.dir().join(name);
    let rename = || fs::rename(at("merged/renamed"), at("merged/new")).unwrap();
    is_found_where(&fixture, "merged/renamed", rename, "upper/new").await;
    let link = || {
        fs::hard_link(at("merged/linked"), at("merged/link")).unwrap();
        fs::remove_file(at("merged/linked")).unwrap();
    };
    is_found_where(&fixture, "merged/linked", link, "upper/link").await;
    // Disks on the copy cannot be compared.
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.acquire(&[shared(&at("merged/stacked"))]).await.unwrap();
    let hide = || {
        fs::rename(at("upper"), at("elsewhere")).unwrap();
        copy_up(&at("merged/hidden"));
    };
    is_found_where(&fixture, "merged/hidden", hide, "elsewhere/hidden").await;
    copy_up(&at("merged/stacked"));
    let device = LoopDevice::attach(&at("elsewhere/stacked"));
    for disk_request in [exclusive(device.node()), shared(device.node())] {
        let refused = web2.acquire(&[disk_request]).await.unwrap_err();
        assert_refused(&refused, "NotLockable", "it may be the copy of a file of an overlay");
    }
    web1.owner.close(none()).await.unwrap();
    web2.acquire(&[exclusive(device.node())]).await.unwrap();
    web2.owner.close(none()).await.unwrap();
    drop((device, merged));
}

#[tokio::test]
async fn a_shared_file_is_found_under_the_name_by_which_it_is_copied_up() {
    copied_up_under_other_names("").await;
}

#[tokio::test]
async fn a_shared_file_that_has_a_lock_file_is_found_under_the_name_by_which_it_is_copied_up() {
    copied_up_under_other_names("file_lockspace_dir = \"@DIR@/locks\"\n").await;
}

#[tokio::test]
async fn a_file_whose_upper_layer_was_renamed_before_it_was_locked_is_found_there() {
    let fixture = Fixture::builder().folder("lower").start().await;
    image(&fixture, "lower/disk");
    for folder in ["upper", "work"] {
        fs::create_dir(fixture.dir().join(folder)).unwrap();
    }
    let dir = fixture.dir().to_str().unwrap().to_owned();
    let options = format!("lowerdir={dir}/lower,upperdir={dir}/upper,workdir={dir}/work");
    let merged = overlay_with(&fixture, &options, "merged");
    let at = |name: &str| fixture.dir().join(name);
    fs::rename(at("upper"), at("elsewhere")).unwrap();
    let copy = || copy_up(&at("merged/disk"));
    is_found_where(&fixture, "merged/disk", copy, "elsewhere/disk").await;
    drop(merged);
}

//! Files of overlays, and of the layers that these are made of.

use std::fs;
use std::process::Command;

use super::*;
use crate::fixture::TestMount;

/// Mounts an overlay of two folders of the fixture, by relative names.
pub(super) fn overlay(fixture: &Fixture, lower: &str, upper: &str, at: &str) -> TestMount {
    for folder in [lower, upper, &format!("{upper}-work")] {
        fs::create_dir_all(fixture.dir().join(folder)).unwrap();
    }
    let options = format!("lowerdir={lower},upperdir={upper},workdir={upper}-work");
    overlay_with(fixture, &options, at)
}

/// Mounts an overlay with these options.
pub(super) fn overlay_with(fixture: &Fixture, options: &str, at: &str) -> TestMount {
    fs::create_dir_all(fixture.dir().join(at)).unwrap();
    let output = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", options, at])
        .current_dir(fixture.dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    TestMount::there(&fixture.dir().join(at))
}

#[tokio::test]
async fn a_file_of_an_overlay_is_that_of_its_upper_layer() {
    let fixture = Fixture::builder().start().await;
    let dir = fixture.dir().to_str().unwrap().to_owned();
    // By relative names, and by absolute ones.
    for (n, base) in [String::new(), format!("{dir}/")].iter().enumerate() {
        let (lower, upper) = (format!("{base}lower{n}"), format!("{base}upper{n}"));
        let at = fixture.dir().join(format!("merged{n}"));
        let mounted = overlay(&fixture, &lower, &upper, at.to_str().unwrap());
        fs::create_dir(at.join("images")).unwrap();
        fs::write(at.join("images/disk"), "new").unwrap();
        let there = fixture.dir().join(&upper).join("images/disk");
        meet(&fixture, &there, &at.join("images/disk")).await;
        drop(mounted);
    }
}

#[tokio::test]
async fn a_file_of_a_lower_layer_is_copied_up_for_an_exclusive_lock_only() {
    let fixture = Fixture::builder().folder("lower").start().await;
    let base = fixture.raw_of(0, "lower/disk");
    let one = overlay(&fixture, "lower", "upper1", "merged1");
    let two = overlay(&fixture, "lower", "upper2", "merged2");
    let at = |name: &str| fixture.dir().join(name);
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    // A reader reads the base, which must not be written meanwhile.
    let locks = web1.acquire(&[shared(&at("merged1/disk"))]).await.unwrap();
    assert!(!at("upper1/disk").exists());
    let refused = web2.acquire(&[exclusive(&base)]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", ", which lies on it");
    web2.acquire(&[shared(&base)]).await.unwrap();
    web1.release(&locks).await.unwrap();
    // Each writes a copy of its own.
    web1.acquire(&[exclusive(&at("merged1/disk"))]).await.unwrap();
    web2.acquire(&[exclusive(&at("merged2/disk"))]).await.unwrap();
    let refused = web2.acquire(&[exclusive(&at("upper1/disk"))]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", ", which lies on it");
    let refused = web1.acquire(&[exclusive(&at("upper2/disk"))]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", ", which lies on it");
    drop((one, two));
}

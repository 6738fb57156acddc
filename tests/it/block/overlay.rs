//! Files of overlays, and of the layers that these are made of.

use std::fs;
use std::process::Command;

use super::*;
use crate::house::Mounted;

/// Mounts an overlay of two folders of the house, by relative names.
pub(super) fn overlay(house: &House, lower: &str, upper: &str, at: &str) -> Mounted {
    for folder in [lower, upper, &format!("{upper}-work")] {
        fs::create_dir_all(house.dir().join(folder)).unwrap();
    }
    let options = format!("lowerdir={lower},upperdir={upper},workdir={upper}-work");
    overlay_with(house, &options, at)
}

/// Mounts an overlay with these options.
pub(super) fn overlay_with(house: &House, options: &str, at: &str) -> Mounted {
    fs::create_dir_all(house.dir().join(at)).unwrap();
    let output = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", options, at])
        .current_dir(house.dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Mounted::there(&house.dir().join(at))
}

#[tokio::test]
async fn a_file_of_an_overlay_is_that_of_its_upper_layer() {
    let house = House::builder().start().await;
    let dir = house.dir().to_str().unwrap().to_owned();
    // By relative names, and by absolute ones.
    for (n, base) in [String::new(), format!("{dir}/")].iter().enumerate() {
        let (lower, upper) = (format!("{base}lower{n}"), format!("{base}upper{n}"));
        let at = house.dir().join(format!("merged{n}"));
        let mounted = overlay(&house, &lower, &upper, at.to_str().unwrap());
        fs::create_dir(at.join("images")).unwrap();
        fs::write(at.join("images/disk"), "new").unwrap();
        let there = house.dir().join(&upper).join("images/disk");
        meet(&house, &there, &at.join("images/disk")).await;
        drop(mounted);
    }
}

#[tokio::test]
async fn a_file_of_a_lower_layer_is_copied_up_for_an_exclusive_lock_only() {
    let house = House::builder().folder("lower").start().await;
    let base = house.raw_of(0, "lower/disk");
    let one = overlay(&house, "lower", "upper1", "merged1");
    let two = overlay(&house, "lower", "upper2", "merged2");
    let at = |name: &str| house.dir().join(name);
    let bus = house.connection().await;
    let (web1, web2) = (Machine::open(&bus, "web1").await, Machine::open(&bus, "web2").await);
    // To read it is to read the base, which nobody may write meanwhile.
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

//! Files, and the devices and images that their file systems are on.

use std::fs;

use super::in_use::MountedDevice;
use super::*;

#[tokio::test]
async fn a_file_conflicts_with_the_image_of_its_file_system() {
    let device = LoopDevice::new();
    let fixture = Fixture::builder().start().await;
    let mounted = MountedDevice::of(&fixture, device.node()).await;
    let [one, two] = ["one", "two"].map(|name| {
        let file = mounted.0.join(name);
        fs::write(&file, "").unwrap();
        file
    });
    let (image, link) = (device.file(), mounted.0.join("link"));
    fs::hard_link(&one, &link).unwrap();
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let in_use = || option("in-use", true);
    for lower in [device.node(), &image] {
        let locks = web1.acquire(&[exclusive(&one)]).await.unwrap();
        for disk_request in [exclusive(lower), shared(lower)] {
            let refused = web2.owner.acquire(&[disk_request], in_use()).await.unwrap_err().into();
            let through = format!("through {}, which lies on it", one.display());
            assert_refused(&refused, "LockHeld", &through);
        }
        web1.release(&locks).await.unwrap();
        let locks = web1.owner.acquire(&[exclusive(lower)], in_use()).await.unwrap();
        for disk_request in [exclusive(&link), shared(&link)] {
            let refused = web2.acquire(&[disk_request]).await.unwrap_err();
            let through = format!("through {}, on which it lies", lower.display());
            assert_refused(&refused, "LockHeld", &through);
        }
        web1.release(&locks).await.unwrap();
        let locks = web1.acquire(&[shared(lower)]).await.unwrap();
        let read = web2.acquire(&[shared(&one)]).await.unwrap();
        web1.release(&locks).await.unwrap();
        web2.release(&read).await.unwrap();
    }
    // Two files of one file system have no byte in common.
    web1.acquire(&[exclusive(&one)]).await.unwrap();
    let locks = web2.acquire(&[exclusive(&two)]).await.unwrap();
    web2.release(&locks).await.unwrap();
    // That the file system is on the image is known after a crash.
    web1.owner.bind_pid(std::process::id(), none()).await.unwrap();
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    let bus = fixture.connection().await;
    let web2 = TestVm::open(&bus, "web2").await;
    let refused = web2.owner.acquire(&[exclusive(&image)], in_use()).await.unwrap_err().into();
    assert_refused(&refused, "LockHeld", ", which lies on it");
    let of_two = web2.acquire(&[exclusive(&two)]).await.unwrap();
    web2.release(&of_two).await.unwrap();
    // Its lock on the file keeps the file system busy.
    fixture.daemon().kill9().await;
    drop(mounted);
}

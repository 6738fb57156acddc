//! Waiting owners that perform other commands.

use std::fs::File;

use zbus::Fd;

use super::{LONG, until_waiting, wait};
use crate::dbus_client::{TestVm, exclusive, option};
use crate::fixture::{Fixture, within};
use crate::methods::none;
use crate::refused_requests::assert_free;
use crate::virtlockd::host::hung_mount::HungMount;

#[tokio::test]
async fn a_waiting_owner_can_use_all_other_methods() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (held, own) = (fixture.raw_of(0, "held"), fixture.raw_of(0, "own"));
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let locks = web1.acquire(&[exclusive(&held)]).await.unwrap();
    let waits = wait(&bus, &web2, &[exclusive(&held)], LONG).await;
    let other = within("another disk", web2.acquire(&[exclusive(&own)])).await.unwrap();
    drop(within("a lifeline", web2.owner.new_lifeline(none())).await.unwrap());
    within("its release", web2.release(&other)).await.unwrap();
    // The same once more, which is no second place in anybody's way.
    let again = wait(&bus, &web2, &[exclusive(&held)], LONG).await;
    web1.release(&locks).await.unwrap();
    let one = within("its turn", waits).await.unwrap().unwrap();
    let same = within("the same lock", again).await.unwrap().unwrap();
    assert_eq!(one, same);
    until_waiting(&bus, 0).await;
}

#[tokio::test]
async fn a_disk_that_was_passed_is_waited_for_after_it_was_closed() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (disk, named) = (fixture.raw_of(0, "disk"), fixture.raw_of(0, "named"));
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let held = web1.acquire(&[exclusive(&disk), exclusive(&named)]).await.unwrap();
    let before = fixture.daemon().open_fds();
    let call = {
        let (owner, disk, named) = (web2.owner.clone(), disk.clone(), named.clone());
        tokio::spawn(async move {
            let file = File::options().read(true).write(true).open(disk).unwrap();
            let files = [(Fd::from(&file), "exclusive")];
            let timeout = option("timeout-usec", LONG);
            owner.acquire_with_files(&[exclusive(&named)], &files, timeout).await
        })
    };
    until_waiting(&bus, 1).await;
    // The two of them, not opened for reading or writing, and perhaps the caller's own.
    assert!(fixture.daemon().open_fds() <= before + 4, "{:#?}", fixture.daemon().fd_targets());
    web1.release(&held[..1]).await.unwrap();
    assert_free(&disk);
    web1.release(&held[1..]).await.unwrap();
    let locks = within("its turn", call).await.unwrap().unwrap();
    assert_eq!(locks.len(), 2);
    web2.release(&locks).await.unwrap();
    assert_free(&disk);
    assert_free(&named);
}

/// A mount that does not respond, which needs FUSE.
mod host {
    use super::*;

    /// A command that hangs on storage holds the command lock of its owner. A waiter behind it in
    /// the queue, for an unrelated disk, is not delayed; and the owner keeps its position.
    #[tokio::test]
    async fn a_hung_command_delays_only_its_owner() {
        let fixture = Fixture::builder().start().await;
        let Some(far) = HungMount::mount(&fixture).await else { return };
        let bus = fixture.connection().await;
        let near = fixture.raw_of(0, "near");
        let [web1, web2, web3] = [
            TestVm::open(&bus, "web1").await,
            TestVm::open(&bus, "web2").await,
            TestVm::open(&bus, "web3").await,
        ];
        let held = web1.acquire(&[exclusive(&near)]).await.unwrap();
        let first = wait(&bus, &web2, &[exclusive(&near)], LONG).await;
        let second = wait(&bus, &web3, &[exclusive(&near)], LONG).await;
        far.stop();
        let hangs = {
            let (owner, disk) = (web2.owner.clone(), far.disk());
            tokio::spawn(async move { owner.acquire(&[exclusive(&disk)], none()).await })
        };
        // A call of the same connection that was sent later is answered: the first has begun.
        web3.locks().await;
        web1.release(&held).await.unwrap();
        let locks = within("the second's turn", second).await.unwrap().unwrap();
        assert!(!first.is_finished() && !hangs.is_finished());
        far.go_on();
        within("storage answers", hangs).await.unwrap().unwrap();
        assert!(!first.is_finished());
        web3.release(&locks).await.unwrap();
        within("the first's turn", first).await.unwrap().unwrap();
        assert_eq!(web2.locks().await.len(), 2);
        web2.owner.close(none()).await.unwrap();
        assert_free(&near);
    }
}

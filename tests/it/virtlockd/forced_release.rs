//! Owners whose clients use virtlockd's protocol are not released over the bus by mistake, not even
//! by root.

use futures_util::StreamExt as _;

use crate::dbus_client::{lock, manager, option, owner};
use crate::fixture::rpc::{Owner, Rpc};
use crate::fixture::within;
use crate::methods::none;
use crate::snapshot::Listed;

use super::checker::fixture;
use super::many_clients::sleep;

#[tokio::test]
async fn a_vm_of_the_other_frontend_is_released_by_force_only() {
    let fixture = fixture().await;
    let bus = fixture.connection().await;
    let process = sleep(&fixture);
    let disks = [fixture.image("one.img").await, fixture.image("two.img").await];
    let mut rpc = Rpc::connect(&fixture.dir().join("virtlockd-sock")).unwrap();
    rpc.register(&Owner::new("web1", 1, process.pid())).granted();
    for disk in &disks {
        rpc.acquire("", disk.to_str().unwrap(), 0).granted();
    }
    let listed = Listed::by(&bus).await;
    let path = |name: &String| zbus::OwnedObjectPath::try_from(name.as_str()).unwrap();
    let theirs = owner(&bus, path(listed.owners.keys().next().unwrap())).await;
    assert_eq!(theirs.frontend().await.unwrap(), "virtlockd");
    let locks = theirs.locks().await.unwrap();
    let one = lock(&bus, &locks[0]).await;

    for refused in [
        one.release(none()).await.unwrap_err(),
        theirs.release(&locks[1..], none()).await.unwrap_err(),
        theirs.close(none()).await.unwrap_err(),
    ] {
        let words = "VM \"web1\" of uid 0, which is alive; set 'force'";
        assert!(refused.to_string().contains(words), "{refused}");
    }
    assert_eq!(Listed::by(&bus).await, listed);

    let mut released = manager(&bus).await.receive_lock_released().await.unwrap();
    one.release(option("force", true)).await.unwrap();
    theirs.close(option("force", true)).await.unwrap();
    for _ in &disks {
        let told = within("a release", released.next()).await.unwrap();
        assert_eq!(told.args().unwrap().reason(), "forced");
    }
    // A client that still acts for the VM starts from the beginning.
    rpc.release("", disks[0].to_str().unwrap(), 0).refused();
    rpc.acquire("", disks[0].to_str().unwrap(), 0).granted();
}

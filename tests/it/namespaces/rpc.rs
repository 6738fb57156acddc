//! Clients of virtlockd's protocol in namespaces of their own: libvirt in a container that has the
//! socket of the host.

use super::scenario::{Scenario, is_free};
use crate::dbus_client::{manager, owner};
use crate::fixture::Fixture;
use crate::fixture::rpc::Owner;
use crate::fixture::user::ROOT;

async fn scenario() -> Scenario {
    let fixture = Fixture::builder().config("virtlockd_socket = \"@DIR@/virtlockd-sock\"\n");
    Scenario::of(fixture.start().await, ROOT)
}

#[tokio::test]
async fn a_name_that_leads_to_another_file_is_refused() {
    let scenario = scenario().await;
    let (process, mut client) = scenario.rpc(&scenario.swapped());
    client.register(&Owner::new("inner", 1, process.pid())).granted();
    let (disk, other) = (scenario.disk(), scenario.other());
    let refused = client.acquire("", disk.to_str().unwrap(), 0).refused();
    assert!(refused.message.contains("leads to another file"), "{refused:?}");
    assert!(is_free(&disk) && is_free(&other));
    client.acquire("", other.to_str().unwrap(), 0).granted();
    assert!(!is_free(&other));
    // Directories of leases are refused, too: nothing is created.
    let pool = scenario.path("pool");
    let pool = pool.to_str().unwrap();
    let refused = client.create_lockspace(pool).refused();
    assert!(refused.message.contains("mount namespace"), "{refused:?}");
    let (_process, mut host) = scenario.rpc(&["env".to_owned()]);
    host.create_lockspace(pool).granted();
    let refused = client.acquire(pool, "key", crate::fixture::rpc::AUTOCREATE).refused();
    assert!(refused.message.contains("leads to another file"), "{refused:?}");
    let refused = client.create_resource(pool, "key").refused();
    assert!(refused.message.contains("leads to another file"), "{refused:?}");
    assert!(!scenario.path("pool/key").exists() && !scenario.path("other/key").exists());
}

#[tokio::test]
async fn a_process_number_of_a_pid_namespace_is_translated_or_refused() {
    let scenario = scenario().await;
    let behind = ["unshare", "--pid", "--fork", "--kill-child", "--"].map(str::to_owned);
    let (process, mut client) = scenario.rpc(&behind);
    for pid in [process.pid() + 1, 2] {
        let refused = client.register(&Owner::new("inner", 1, pid)).refused();
        assert!(refused.message.contains("process number"), "{refused:?}");
    }
    client.register(&Owner::new("inner", 1, 1)).granted();
    client.acquire("", scenario.disk().to_str().unwrap(), 0).granted();
    let bus = scenario.fixture.connection().await;
    let owners = manager(&bus).await.list_owners(crate::methods::none()).await.unwrap();
    assert_eq!(owners.len(), 1);
    let path = zbus::OwnedObjectPath::try_from(owners[0]["owner"].clone()).unwrap();
    assert_eq!(owner(&bus, path).await.pid().await.unwrap(), process.pid());
}

//! Process numbers from inside a pid namespace.

use super::assert_foreign;
use super::scenario::{Scenario, is_free};
use crate::dbus_client::{TestVm, exclusive, manager, owner};
use crate::fixture::Fixture;
use crate::methods::none;

fn behind() -> Vec<String> {
    ["unshare", "--pid", "--fork", "--kill-child", "--"].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_number_means_the_process_that_has_it_for_the_caller() {
    let scenario = Scenario::new().await;
    let (process, bus) = scenario.bus(&behind()).await;
    let manager = manager(&bus).await;
    // For itself it is process 1, as the first one there.
    let own = manager.register_owner("", "inner", 1, none()).await.unwrap();
    assert_eq!(owner(&bus, own.clone()).await.pid().await.unwrap(), process.pid());
    assert_eq!(manager.get_owner_by_pid(1).await.unwrap(), own);
    let machine = TestVm::open(&bus, "web1").await;
    machine.owner.bind_pid(1, none()).await.unwrap();
    assert_eq!(machine.owner.pid().await.unwrap(), process.pid());
}

#[tokio::test]
async fn a_number_that_no_process_has_for_the_caller_binds_no_process_of_the_host() {
    let scenario = Scenario::new().await;
    let (process, bus) = scenario.bus(&behind()).await;
    let manager = manager(&bus).await;
    let machine = TestVm::open(&bus, "web1").await;
    // These are processes of the host: the caller itself, and a thread of the kernel.
    for pid in [process.pid(), 2] {
        let registered = manager.register_owner("", "inner", pid, none()).await;
        assert_foreign(&registered.unwrap_err().into(), "pass a process descriptor instead");
        let bound = machine.owner.bind_pid(pid, none()).await;
        assert_foreign(&bound.unwrap_err().into(), "BindProcess");
        assert_foreign(&manager.get_owner_by_pid(pid).await.unwrap_err().into(), "process number");
    }
    assert_eq!(manager.n_owners().await.unwrap(), 1);
    assert_eq!(machine.owner.anchors().await.unwrap(), ["lifeline"]);
}

#[tokio::test]
async fn an_owner_ends_with_the_process_that_the_caller_meant() {
    let scenario = Scenario::new().await;
    let (process, bus) = scenario.bus(&behind()).await;
    let outer = scenario.fixture.connection().await;
    let path = manager(&bus).await.register_owner("", "inner", 1, none()).await.unwrap();
    let disk = scenario.disk();
    owner(&bus, path).await.acquire(&[exclusive(&disk)], none()).await.unwrap();
    let manager = manager(&outer).await;
    let mut released = crate::owners::releases(&manager).await;
    process.end().await;
    assert_eq!(released().await, "owner-gone");
    assert!(is_free(&disk));
}

#[tokio::test]
async fn process_ids_of_the_host_are_unchanged() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web1").await;
    machine.owner.bind_pid(std::process::id(), none()).await.unwrap();
    let refused = machine.owner.bind_pid(u32::MAX, none()).await.unwrap_err();
    let refused = crate::dbus_client::Refused::from(refused);
    assert_eq!(refused.name, "DBus.Error.UnixProcessIdUnknown");
}

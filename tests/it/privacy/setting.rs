//! The key: what is without it, and how it comes into force.

use super::scenario::{FIRST, PRIVATE, SECOND, Scenario, is_view, signals};
use crate::dbus_client::{TestVm, exclusive, lock, manager};
use crate::fixture::user::ROOT;
use crate::fixture::{Broker, NameWatch};
use crate::methods::none;
use crate::snapshot::text;

#[tokio::test]
async fn without_the_setting_every_user_sees_everything() {
    for config in ["", "privacy = \"open\"\n"] {
        let scenario = Scenario::set_up(Broker::DbusDaemon, config).await;
        let mut second = scenario.recorded(SECOND).await;
        let manager = manager(&second.connection).await;
        let owners = manager.list_owners(none()).await.unwrap();
        assert_eq!(text(&owners[0], "name"), "topsecret");
        assert_eq!(manager.n_locks().await.unwrap(), 1);
        manager.get_metrics(none()).await.unwrap();
        let object = lock(&second.connection, &scenario.lock).await;
        assert_eq!(object.resource().await.unwrap(), scenario.path.to_str().unwrap());
        let machine = TestVm::open(&second.connection, "web2").await;
        let refused = machine.acquire(&[exclusive(&scenario.shared)]).await.unwrap_err();
        assert!(refused.message.contains("VM \"topsecret\" ("), "{refused:?}");
        second.sync().await;
        scenario.secret.release(std::slice::from_ref(&scenario.lock)).await.unwrap();
        let messages = second.sync().await;
        let seen = signals(&messages);
        assert!(seen.iter().any(|(_, member, _)| member == "LockReleased"), "{seen:?}");
        // The bus distributes them, once each.
        assert!(messages.iter().all(|message| {
            let header = message.header();
            header.member().is_none() || header.destination().is_none() || header.sender().is_none()
        }));
        assert!(!scenario.fixture.polkit().mock().seen().iter().any(is_view));
    }
}

#[tokio::test]
async fn the_setting_takes_effect_at_a_reload() {
    let scenario = Scenario::set_up(Broker::DbusDaemon, "").await;
    let mut second = scenario.recorded(SECOND).await;
    let mut first = scenario.recorded(FIRST).await;
    let root = manager(&scenario.fixture.connection().await).await;
    let locks =
        async |bus: zbus::Connection| manager(&bus).await.list_locks(none()).await.unwrap().len();
    assert_eq!(locks(second.connection.clone()).await, 1);
    scenario.fixture.configure(PRIVATE);
    root.reload(none()).await.unwrap();
    second.sync().await;
    assert_eq!(locks(second.connection.clone()).await, 0);
    // Connections that were there get what they may see.
    scenario.secret.release(std::slice::from_ref(&scenario.lock)).await.unwrap();
    let released = |messages: &[zbus::Message]| {
        signals(messages).iter().any(|(_, member, _)| member == "LockReleased")
    };
    let to_second = second.sync().await;
    scenario.assert_clean(&to_second);
    assert!(!released(&to_second) && released(&first.sync().await));
    scenario.fixture.configure("");
    root.reload(none()).await.unwrap();
    assert_eq!(manager(&second.connection).await.n_owners().await.unwrap(), 1);
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let scenario = Scenario::set_up(Broker::DbusDaemon, PRIVATE).await;
    let root = scenario.recorded(ROOT).await;
    let mut name = NameWatch::new(&root.connection, "org.vmlockd1").await;
    let before = name.owned().await;
    manager(&root.connection).await.reexecute(none()).await.unwrap();
    name.owned_by_other_than(&before).await;
    let second = scenario.fixture.connection_as(SECOND).await;
    assert!(manager(&second).await.list_owners(none()).await.unwrap().is_empty());
    assert_eq!(manager(&scenario.first).await.list_owners(none()).await.unwrap().len(), 1);
}

//! The key: what is without it, and how it comes into force.

use super::scene::{FIRST, PRIVATE, SECOND, Scene, is_view, signals};
use crate::house::user::ROOT;
use crate::house::{Broker, NameWatch};
use crate::listed::text;
use crate::machine::{Machine, exclusive, lock, manager};
use crate::methods::none;

#[tokio::test]
async fn without_the_key_everybody_sees_everything() {
    for config in ["", "privacy = \"open\"\n"] {
        let scene = Scene::set(Broker::DbusDaemon, config).await;
        let mut second = scene.recorded(SECOND).await;
        let manager = manager(&second.connection).await;
        let owners = manager.list_owners(none()).await.unwrap();
        assert_eq!(text(&owners[0], "name"), "topsecret");
        assert_eq!(manager.n_locks().await.unwrap(), 1);
        manager.get_metrics(none()).await.unwrap();
        let object = lock(&second.connection, &scene.lock).await;
        assert_eq!(object.resource().await.unwrap(), scene.path.to_str().unwrap());
        let machine = Machine::open(&second.connection, "web2").await;
        let refused = machine.acquire(&[exclusive(&scene.shared)]).await.unwrap_err();
        assert!(refused.message.contains("VM \"topsecret\" ("), "{refused:?}");
        second.sync().await;
        scene.secret.release(std::slice::from_ref(&scene.lock)).await.unwrap();
        let messages = second.sync().await;
        let seen = signals(&messages);
        assert!(seen.iter().any(|(_, member, _)| member == "LockReleased"), "{seen:?}");
        // The bus distributes them, once each.
        assert!(messages.iter().all(|message| {
            let header = message.header();
            header.member().is_none() || header.destination().is_none() || header.sender().is_none()
        }));
        assert!(!scene.house.polkit().mock().seen().iter().any(is_view));
    }
}

#[tokio::test]
async fn the_key_comes_into_force_when_the_configuration_is_loaded() {
    let scene = Scene::set(Broker::DbusDaemon, "").await;
    let mut second = scene.recorded(SECOND).await;
    let mut first = scene.recorded(FIRST).await;
    let root = manager(&scene.house.connection().await).await;
    let locks =
        async |bus: zbus::Connection| manager(&bus).await.list_locks(none()).await.unwrap().len();
    assert_eq!(locks(second.connection.clone()).await, 1);
    scene.house.configure(PRIVATE);
    root.reload(none()).await.unwrap();
    second.sync().await;
    assert_eq!(locks(second.connection.clone()).await, 0);
    // Connections that were there get what they may see.
    scene.secret.release(std::slice::from_ref(&scene.lock)).await.unwrap();
    let released = |messages: &[zbus::Message]| {
        signals(messages).iter().any(|(_, member, _)| member == "LockReleased")
    };
    let to_second = second.sync().await;
    scene.assert_clean(&to_second);
    assert!(!released(&to_second) && released(&first.sync().await));
    scene.house.configure("");
    root.reload(none()).await.unwrap();
    assert_eq!(manager(&second.connection).await.n_owners().await.unwrap(), 1);
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let scene = Scene::set(Broker::DbusDaemon, PRIVATE).await;
    let root = scene.recorded(ROOT).await;
    let mut name = NameWatch::new(&root.connection, "org.vmlockd1").await;
    let before = name.owned().await;
    manager(&root.connection).await.reexecute(none()).await.unwrap();
    name.owned_by_other_than(&before).await;
    let second = scene.house.connection_as(SECOND).await;
    assert!(manager(&second).await.list_owners(none()).await.unwrap().is_empty());
    assert_eq!(manager(&scene.first).await.list_owners(none()).await.unwrap().len(), 1);
}

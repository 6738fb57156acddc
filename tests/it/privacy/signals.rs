//! The receivers of each signal.

use std::collections::BTreeSet;
use std::fs;

use futures_util::StreamExt as _;
use zbus::MessageStream;

use super::members;
use super::scenario::{FIRST, PRIVATE, Recorded, SECOND, Scenario, signals};
use crate::dbus_client::{TestVm, exclusive, lock, manager, shared};
use crate::fixture::user::ROOT;
use crate::fixture::{Broker, Fixture, within};
use crate::methods::none;
use crate::virtlockd::host::hung_mount::HungMount;

/// The signals that every object has.
const COMMON: [(&str, &str); 3] = [
    ("org.freedesktop.DBus.ObjectManager", "InterfacesAdded"),
    ("org.freedesktop.DBus.ObjectManager", "InterfacesRemoved"),
    ("org.freedesktop.DBus.Properties", "PropertiesChanged"),
];

/// The first user has every signal sent.
async fn provoke(scenario: &Scenario) {
    let other = scenario.another().await;
    other.acquire(&[shared(&scenario.path)]).await.unwrap_err();
    let first = lock(&scenario.first, &scenario.lock).await;
    first.convert("shared", none()).await.unwrap();
    other.acquire(&[shared(&scenario.path)]).await.unwrap();
    other.owner.suspend(none()).await.unwrap();
    other.owner.resume(none()).await.unwrap();
    let token = other.owner.offer(none()).await.unwrap();
    let target = scenario.another().await;
    target.owner.adopt(&token, none()).await.unwrap();
    target.owner.close(none()).await.unwrap();
    other.owner.close(none()).await.unwrap();
}

/// The storage of the first user's lock file loses it.
async fn lose(scenario: &Scenario, watcher: &mut Recorded, far: &Fixture) {
    let name = lock(&scenario.first, &scenario.lock).await.lock_file().await.unwrap();
    let name = std::path::Path::new(&name).file_name().unwrap().to_owned();
    fs::remove_file(far.dir().join("behind").join(name)).unwrap();
    within("LockLost", async {
        loop {
            let seen = signals(&watcher.sync().await);
            if seen.iter().any(|(_, member, _)| member == "LockLost") {
                break;
            }
        }
    })
    .await;
}

async fn reach_authorized_users(broker: Broker) {
    let scenario = Scenario::set_up(broker, PRIVATE).await;
    let mut second = scenario.recorded(SECOND).await;
    let (mut first, mut root) = (scenario.recorded(FIRST).await, scenario.recorded(ROOT).await);
    let own = TestVm::open(&second.connection, "web2").await;
    let disk = scenario.fixture.raw_of(SECOND, "own");
    own.acquire(&[exclusive(&disk)]).await.unwrap();
    provoke(&scenario).await;
    let mut wanted = members("signal");
    wanted.extend(COMMON.map(|(interface, member)| (interface.to_owned(), member.to_owned())));
    // That a lock is lost takes storage that loses one: see below.
    wanted.retain(|(_, member)| member != "LockLost");
    let kinds = |seen: &[(String, String, String)]| -> BTreeSet<(String, String)> {
        seen.iter().map(|(interface, member, _)| (interface.clone(), member.clone())).collect()
    };
    let to_first = first.sync().await;
    let sent = kinds(&signals(&to_first));
    let missing: Vec<_> = wanted.difference(&sent).collect();
    assert!(
        missing.is_empty(),
        "{missing:?} are sent by no test, or not to the user they are about"
    );
    assert!(
        !to_first
            .iter()
            .any(|message| { String::from_utf8_lossy(message.data().bytes()).contains("web2") })
    );
    let to_root = signals(&root.sync().await);
    assert!(kinds(&to_root).is_superset(&wanted), "root sees everything");
    let to_second = second.sync().await;
    scenario.assert_clean(&to_second);
    let seen = kinds(&signals(&to_second));
    for member in ["InterfacesAdded", "LockAcquired"] {
        assert!(seen.iter().any(|(_, seen)| seen == member), "{member} of its own: {seen:?}");
    }
    scenario.secret.owner.close(none()).await.unwrap();
    scenario.assert_clean(&second.sync().await);
}

#[tokio::test]
async fn signals_reach_authorized_users_only() {
    reach_authorized_users(Broker::DbusDaemon).await;
}

#[tokio::test]
async fn signals_reach_authorized_users_only_on_dbus_broker() {
    reach_authorized_users(Broker::DbusBroker).await;
}

#[tokio::test]
async fn a_connection_that_uses_an_owner_gets_the_signals_of_that_owner() {
    let scenario = Scenario::set_up(Broker::DbusDaemon, PRIVATE).await;
    let mut first = scenario.recorded(FIRST).await;
    // Connections that have listed nothing: one has opened an owner, one calls its object, one neither.
    let opener = scenario.fixture.connection_as(FIRST).await;
    let caller = scenario.fixture.connection_as(FIRST).await;
    let other = scenario.fixture.connection_as(FIRST).await;
    let (mut to_opener, mut to_caller, mut to_other) =
        (MessageStream::from(&opener), MessageStream::from(&caller), MessageStream::from(&other));
    let machine = TestVm::open(&opener, "own").await;
    crate::dbus_client::owner(&caller, machine.path()).await.state().await.unwrap();
    manager(&other).await.version().await.unwrap();
    let disk = scenario.fixture.raw_of(FIRST, "free");
    machine.acquire(&[exclusive(&disk)]).await.unwrap();
    scenario.secret.release(std::slice::from_ref(&scenario.lock)).await.unwrap();
    first.sync().await;
    // The bus keeps the order of what one connection sends to another: an answer comes after it.
    for (bus, stream, wanted) in [
        (&opener, &mut to_opener, true),
        (&caller, &mut to_caller, true),
        (&other, &mut to_other, false),
    ] {
        let last = manager(bus).await.inner().call_method("ListOwners", &(none(),)).await.unwrap();
        let last = last.header().reply_serial();
        let mut seen = Vec::new();
        loop {
            let message = within("an answer", stream.next()).await.unwrap().unwrap();
            if message.header().reply_serial() == last {
                break;
            }
            seen.push(message);
        }
        let seen = signals(&seen);
        let acquired = seen.iter().any(|(_, member, _)| member == "LockAcquired");
        assert_eq!(acquired, wanted, "{seen:?}");
        assert!(!seen.iter().any(|(_, member, _)| member == "LockReleased"), "{seen:?}");
    }
}

/// A mount that does not respond, which needs FUSE.
mod host {
    use super::*;

    #[tokio::test]
    async fn a_lost_lock_is_signalled_to_its_user_only() {
        let mut scenario = Scenario::set_up(Broker::DbusDaemon, PRIVATE).await;
        let Some(_far) = HungMount::mount(&scenario.fixture).await else { return };
        let config = "file_lockspace_dir = \"@DIR@/far\"\nverify_interval = 1\n";
        scenario.fixture.configure(&format!("{config}{PRIVATE}"));
        manager(&scenario.fixture.connection().await).await.reload(none()).await.unwrap();
        scenario.secret.release(std::slice::from_ref(&scenario.lock)).await.unwrap();
        scenario.lock =
            scenario.secret.acquire(&[exclusive(&scenario.path)]).await.unwrap().remove(0);
        let mut second = scenario.recorded(SECOND).await;
        let mut first = scenario.recorded(FIRST).await;
        lose(&scenario, &mut first, &scenario.fixture).await;
        let to_second = second.sync().await;
        assert!(signals(&to_second).is_empty(), "{to_second:?}");
        scenario.assert_clean(&to_second);
    }
}

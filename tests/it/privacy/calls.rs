//! Replies, properties and refusals for a second user.

use std::collections::BTreeSet;

use zbus::OwnedObjectPath;
use zbus::fdo::{IntrospectableProxy, ObjectManagerProxy};
use zbus::message::Type;
use zbus::wire::Structure;

use super::members;
use super::scenario::{PRIVATE, Recorded, SECOND, Scenario};
use crate::dbus_client::{TestVm, exclusive, manager, option, shared};
use crate::fixture::user::{DAEMON, ROOT};
use crate::fixture::{Answer, Broker, ForeignHolder, LockType};
use crate::methods::{self, Subject, none};
use crate::snapshot::text;

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The second user's machine, which wants the first one's disk by another name.
async fn own_machine(scenario: &Scenario, second: &Recorded) -> (TestVm, OwnedObjectPath) {
    let machine = TestVm::open(&second.connection, "web2").await;
    let disk = scenario.fixture.raw_of(SECOND, "own");
    let lock = machine.acquire(&[shared(&disk)]).await.unwrap().remove(0);
    (machine, lock)
}

async fn introspect(second: &Recorded, path: &str) -> String {
    let proxy = IntrospectableProxy::builder(&second.connection).destination("org.vmlockd1");
    proxy.path(path).build().await.unwrap().introspect().await.unwrap()
}

async fn no_method_reveals_another_user(broker: Broker) {
    let scenario = Scenario::set_up(broker, PRIVATE).await;
    let mut second = scenario.recorded(SECOND).await;
    let (machine, lock) = own_machine(&scenario, &second).await;
    let (owner, bus) = (machine.path(), &second.connection);
    let subject = Subject { owner: &owner, lock: &lock, disk: &scenario.shared };
    let mut called = BTreeSet::new();
    for method in methods::all(&subject) {
        called.insert((method.interface.to_owned(), method.name.to_owned()));
        // Most of them are refused, for the disk of the first user among other things.
        let _ = method.call(bus, none()).await;
    }
    let listed = members("method");
    let missing: Vec<_> = listed.difference(&called).collect();
    assert!(missing.is_empty(), "{missing:?} are called by no test: add them to methods.rs");
    let (machine, lock) = {
        let machine = TestVm::open(bus, "web3").await;
        let disk = scenario.fixture.raw_of(SECOND, "other");
        let lock = machine.acquire(&[exclusive(&disk)]).await.unwrap().remove(0);
        (machine, lock)
    };
    let owner = machine.path();
    let lockspace = "/org/vmlockd1/lockspace/direct";
    for (interface, property) in members("property") {
        let path = match interface.rsplit('.').next().unwrap() {
            "Manager" => "/org/vmlockd1",
            "Owner" => owner.as_str(),
            "Lock" => lock.as_str(),
            "Lockspace" => lockspace,
            other => panic!("no object of {other}"),
        };
        let all = Structure::from((interface.as_str(),));
        second.call(path, Some(PROPERTIES), "GetAll", &all).await.unwrap();
        let one = Structure::from((interface.as_str(), property.as_str()));
        second.call(path, Some(PROPERTIES), "Get", &one).await.unwrap();
    }
    for path in ["/", "/org", "/org/vmlockd1", "/org/vmlockd1/owner", "/org/vmlockd1/lock"] {
        introspect(&second, path).await;
    }
    introspect(&second, "/org/vmlockd1/lockspace").await;
    let objects = ObjectManagerProxy::builder(bus).destination("org.vmlockd1");
    let objects = objects.path("/org/vmlockd1").build().await.unwrap();
    let objects = objects.get_managed_objects().await.unwrap();
    let below = |folder: &str| objects.keys().filter(|path| path.starts_with(folder)).count();
    let (owners, locks) = (below("/org/vmlockd1/owner/"), below("/org/vmlockd1/lock/"));

    let manager = manager(bus).await;
    assert_eq!(manager.n_owners().await.unwrap() as usize, owners);
    assert_eq!(manager.n_locks().await.unwrap() as usize, locks);
    assert_eq!(manager.n_waiting().await.unwrap(), 0);
    for options in [none(), option("limit", 100_u32)] {
        let rows = manager.list_owners(options).await.unwrap();
        assert_eq!(rows.len(), owners, "{rows:?}");
        assert!(rows.iter().all(|row| text(row, "name").starts_with("web")), "{rows:?}");
    }
    assert_eq!(manager.list_locks(none()).await.unwrap().len(), locks);
    // The filter by another's owner finds what the filter by none finds.
    let foreign = option("owner", scenario.secret.path().into_inner());
    assert!(manager.list_locks(foreign).await.unwrap().is_empty());
    let by_pid = manager.get_owner_by_pid(1).await.unwrap_err().to_string();
    assert!(by_pid.contains("no owner is bound to process 1"), "{by_pid}");

    let messages = second.sync().await;
    let replies = messages.iter().filter(|message| message.message_type() != Type::Signal);
    assert!(replies.count() > 60, "what is recorded has the replies");
    scenario.assert_clean(&messages);
}

#[tokio::test]
async fn no_method_or_property_reveals_another_user() {
    no_method_reveals_another_user(Broker::DbusDaemon).await;
}

#[tokio::test]
async fn no_method_or_property_reveals_another_user_on_dbus_broker() {
    no_method_reveals_another_user(Broker::DbusBroker).await;
}

#[tokio::test]
async fn a_refusal_says_that_another_user_holds_it_and_how() {
    let scenario = Scenario::set_up(Broker::DbusDaemon, PRIVATE).await;
    let mut second = scenario.recorded(SECOND).await;
    let bus = second.connection.clone();
    let machine = TestVm::open(&bus, "web2").await;
    let disk = scenario.shared.to_str().unwrap();
    let by_another = format!("disk {disk} is locked exclusively by another user");
    for mode in ["exclusive", "shared"] {
        let refused = machine.acquire(&[(disk, mode)]).await.unwrap_err();
        assert_eq!((refused.name.as_str(), refused.message), ("LockHeld", by_another.clone()));
    }
    let soon = option("timeout-usec", 1000_u64);
    let late = machine.owner.acquire(&[(disk, "shared")], soon).await.unwrap_err().to_string();
    assert!(late.ends_with(&format!(": {by_another}")), "{late}");
    let file = std::fs::File::options().read(true).write(true).open(disk).unwrap();
    let refused = machine.acquire_files(&[(&file, "exclusive")]).await.unwrap_err();
    assert!(refused.message.ends_with(" is locked exclusively by another user"), "{refused:?}");
    let opening = option("resources", vec![(disk.to_owned(), "shared".to_owned())]);
    let refused = TestVm::open_with(&bus, "", "web3", opening).await.unwrap_err();
    assert_eq!(refused.message, by_another);
    // FindHolders reports the holder in the same way, and no process that has the disk open.
    let holders = manager(&bus).await.find_holders(disk, none()).await.unwrap();
    let holders = format!("{holders:?}");
    assert_eq!(holders.matches("kind").count(), 1, "{holders}");
    assert!(holders.contains("hidden") && holders.contains("exclusive"), "{holders}");

    // A user's own machine is named to it, as before.
    let own = scenario.fixture.raw_of(SECOND, "own");
    machine.acquire(&[exclusive(&own)]).await.unwrap();
    let other = TestVm::open(&bus, "web4").await;
    let refused = other.acquire(&[exclusive(&own)]).await.unwrap_err();
    assert!(refused.message.contains("by VM \"web2\" ("), "{refused:?}");

    // A program of root's, which no owner of the service is.
    let free = scenario.fixture.raw_of(SECOND, "free");
    let _foreign_holder = ForeignHolder::hold(&free, LockType::Posix, true).unwrap();
    let refused = other.acquire(&[exclusive(&free)]).await.unwrap_err();
    let free = free.to_str().unwrap();
    let by_program = format!("disk {free} is locked exclusively by another program or host");
    assert_eq!((refused.name.as_str(), refused.message), ("LockHeldElsewhere", by_program));
    scenario.assert_clean(&second.sync().await);
}

/// How much a connection sees of the first user's.
async fn sees_everything(scenario: &Scenario, bus: &zbus::Connection) -> bool {
    let manager = manager(bus).await;
    let listed = manager.list_locks(none()).await.unwrap().len() == 1;
    let metrics = manager.get_metrics(none()).await;
    let object = crate::dbus_client::lock(bus, &scenario.lock).await.resource().await.is_ok();
    assert_eq!((listed, metrics.is_ok()), (object, object), "{metrics:?}");
    if let Err(refused) = metrics {
        assert!(refused.to_string().contains("view-foreign"), "{refused}");
    }
    listed
}

#[tokio::test]
async fn root_and_authorized_users_see_everything() {
    let scenario = Scenario::set_up(Broker::DbusDaemon, PRIVATE).await;
    let allowed = scenario.fixture.connection_as(DAEMON).await;
    let name = allowed.unique_name().unwrap().to_string();
    scenario.fixture.polkit().mock().decide(move |call| {
        let is_allowed = call.subject_name().is_some_and(|subject| subject == name);
        if is_allowed { Answer::Allow } else { Answer::Deny }
    });
    let denied = scenario.fixture.connection_as(DAEMON).await;
    for (bus, sees) in [
        (&allowed, true),
        (&scenario.fixture.connection().await, true),
        (&denied, false),
        (&scenario.fixture.connection_as(SECOND).await, false),
    ] {
        assert_eq!(sees_everything(&scenario, bus).await, sees, "{bus:?}");
    }
    let views = |name: &str| {
        let seen = scenario.fixture.polkit().mock().seen();
        let about = |call: &&crate::fixture::Call| {
            super::scenario::is_view(call) && call.subject_name().as_deref() == Some(name)
        };
        seen.iter().filter(about).count()
    };
    // Once for the connection; and the one that sees everything needs no question for the metrics.
    assert_eq!(views(allowed.unique_name().unwrap()), 1);
    assert_eq!(views(denied.unique_name().unwrap()), 2);
    assert_eq!(views(scenario.fixture.connection().await.unique_name().unwrap()), 0);
}

#[tokio::test]
async fn a_hung_polkit_delays_no_other_caller() {
    let scenario = Scenario::set_up(Broker::DbusDaemon, PRIVATE).await;
    scenario.fixture.polkit().mock().answer(Answer::Hang);
    let second = scenario.fixture.connection_as(SECOND).await;
    let call = tokio::spawn(async move { manager(&second).await.list_locks(none()).await });
    // Root is served meanwhile, and the user once there is an answer.
    assert!(sees_everything(&scenario, &scenario.fixture.connection_as(ROOT).await).await);
    let mock = scenario.fixture.polkit().mock();
    loop {
        let asked = mock.next_call().await;
        if super::scenario::is_view(&asked) && mock.release(&asked, Answer::Deny) {
            break;
        }
    }
    assert!(call.await.unwrap().unwrap().is_empty());
}

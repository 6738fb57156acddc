//! Signals that another user sends to `vmlockctl` in the service's name.

use std::collections::HashMap;

use serde_json::Value;
use zbus::fdo::DBusProxy;
use zbus::names::{BusName, OwnedUniqueName, UniqueName};
use zbus::{Connection, ObjectPath, OwnedVariant, Variant};

use super::Tool;
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::Fixture;
use crate::fixture::user::NOBODY;

const MANAGER: &str = "org.vmlockd1.Manager";
const OBJECTS: &str = "org.freedesktop.DBus.ObjectManager";

/// Returns the unique name of the connection that a process has on the bus.
pub(crate) async fn name_of(bus: &Connection, pid: u32) -> OwnedUniqueName {
    let proxy = DBusProxy::new(bus).await.unwrap();
    let names = proxy.list_names().await.unwrap();
    for name in names {
        let BusName::Unique(name) = BusName::from(name) else { continue };
        let asked = BusName::Unique(name.clone());
        if proxy.get_connection_unix_process_id(asked).await.is_ok_and(|it| it == pid) {
            return name.into();
        }
    }
    panic!("process {pid} is not on the bus");
}

/// Sends one of each signal to one connection, and waits until the bus has delivered them.
async fn forge(forger: &Connection, victim: &UniqueName<'_>, owner: &str) {
    let lock = ObjectPath::try_from("/org/vmlockd1/lock/7").unwrap();
    let owner = ObjectPath::try_from(owner).unwrap();
    let (to, path) = (Some(victim), "/org/vmlockd1");
    for (member, last) in
        [("LockAcquired", "exclusive"), ("LockReleased", "forced"), ("LockLost", "taken")]
    {
        let body = (&lock, &owner, "/srv/forged", last);
        forger.emit_signal(to, path, MANAGER, member, &body).await.unwrap();
    }
    let body = ("/srv/forged", vec![&owner], &owner);
    forger.emit_signal(to, path, MANAGER, "LockContended", &body).await.unwrap();
    let body = (&owner, vec!["org.vmlockd1.Owner"]);
    forger.emit_signal(to, path, OBJECTS, "InterfacesRemoved", &body).await.unwrap();
    let front = OwnedVariant::try_from(Variant::from("dbus")).unwrap();
    let properties = HashMap::from([("Frontend", front)]);
    let body = (&owner, HashMap::from([("org.vmlockd1.Owner", properties)]));
    forger.emit_signal(to, path, OBJECTS, "InterfacesAdded", &body).await.unwrap();
    let verified = OwnedVariant::try_from(Variant::from(true)).unwrap();
    let body = ("org.vmlockd1.Lock", HashMap::from([("Verified", verified)]), Vec::<&str>::new());
    let properties = "org.freedesktop.DBus.Properties";
    forger.emit_signal(to, &lock, properties, "PropertiesChanged", &body).await.unwrap();
    // A client that accepted this would take the forger for the service.
    let name = forger.unique_name().unwrap().as_str();
    let (bus, path) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
    let body = ("org.vmlockd1", name, name);
    forger.emit_signal(to, path, bus, "NameOwnerChanged", &body).await.unwrap();
    // The bus has routed all of it once it answers.
    DBusProxy::new(forger).await.unwrap().get_id().await.unwrap();
}

/// The names of the next events.
async fn events(tool: &mut Tool, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        let event: Value = serde_json::from_str(&tool.line().await).unwrap();
        names.push(event["event"].as_str().unwrap().to_owned());
    }
    names
}

#[tokio::test]
async fn monitor_prints_nothing_that_another_user_sends() {
    let fixture = Fixture::builder().start().await;
    let (bus, forger) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let image = fixture.raw_of(0, "a.img");
    let mut command = fixture.command("sh");
    let program = crate::fixture::program("vmlockctl");
    let program = program.to_str().unwrap();
    command.args(["-c", "exec \"$@\" 2>&1", "sh", program, "--json", "monitor"]);
    let mut monitor = Tool::start(&fixture, command);
    assert!(monitor.line().await.contains("listening"));
    let victim = name_of(&bus, monitor.process.pid()).await;
    let forged = "/org/vmlockd1/owner/_4dea22b3_1d52_d8f3_2516_782e98ab3fa0";

    forge(&forger, &victim, forged).await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&image)]).await.unwrap();
    assert_eq!(events(&mut monitor, 2).await, ["OwnerOpened", "LockAcquired"]);

    // The service that comes next has another unique name, and its signals are heard.
    fixture.daemon().terminate().await;
    assert!(monitor.line().await.contains("is not running on the system bus; waiting for it"));
    assert_eq!(events(&mut monitor, 1).await, ["ServiceLeft"]);
    forge(&forger, &victim, forged).await;
    fixture.daemon().start_again().await;
    assert!(monitor.line().await.contains("is running on the system bus again"));
    assert_eq!(events(&mut monitor, 1).await, ["ServiceCame"]);
    forge(&forger, &victim, forged).await;
    let web2 = TestVm::open(&bus, "web2").await;
    let opened = loop {
        let event: Value = serde_json::from_str(&monitor.line().await).unwrap();
        match event["event"].as_str().unwrap() {
            // The events of the new service about restored locks.
            "Verified" if event["resource"] == image.to_str().unwrap() => {}
            _ => break event,
        }
    };
    assert_eq!((&opened["event"], &opened["name"]), (&"OwnerOpened".into(), &"web2".into()));
    drop((web1, web2));
}

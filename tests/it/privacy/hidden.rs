//! An object of another user answers as one that does not exist.

use zbus::wire::{Structure, StructureBuilder};

use super::scenario::{FIRST, PRIVATE, SECOND, Scenario};
use super::{INTERFACES, members};
use crate::dbus_client::Refused;
use crate::fixture::Broker;

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";

/// Returns the calls on an object: the interface, the member and the arguments.
fn calls(broker: Broker) -> Vec<(Option<String>, String, Vec<String>)> {
    let mut calls = Vec::new();
    let mut add = |interface: Option<&str>, member: &str, arguments: &[&str]| {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        calls.push((interface.map(str::to_owned), member.to_owned(), arguments));
    };
    for (interface, method) in members("method") {
        add(Some(&interface), &method, &[]);
        add(Some(&interface), &method, &["wrong"]);
    }
    let mut properties = members("property");
    for interface in INTERFACES {
        properties.insert((format!("org.vmlockd1.{interface}"), "NoSuchProperty".to_owned()));
        add(Some(PROPERTIES), "GetAll", &[&format!("org.vmlockd1.{interface}")]);
    }
    for (interface, property) in properties {
        add(Some(PROPERTIES), "Get", &[&interface, &property]);
        add(Some(PROPERTIES), "Set", &[&interface, &property, "a"]);
    }
    for interface in ["org.vmlockd1.None", "org.freedesktop.DBus.Peer", PROPERTIES] {
        add(Some(PROPERTIES), "GetAll", &[interface]);
        add(Some(interface), "NoSuchMethod", &[]);
    }
    add(Some(PROPERTIES), "Get", &[]);
    add(Some(INTROSPECTABLE), "Introspect", &[]);
    add(Some(INTROSPECTABLE), "Introspect", &["wrong"]);
    add(Some("org.freedesktop.DBus.ObjectManager"), "GetManagedObjects", &[]);
    add(Some("org.freedesktop.DBus.Peer"), "Ping", &[]);
    add(Some("org.freedesktop.DBus.Peer"), "GetMachineId", &[]);
    // dbus-broker never delivers a call without an interface to this service, nor answers it.
    if broker == Broker::DbusDaemon {
        add(None, "Release", &[]);
        add(None, "Ping", &[]);
    }
    calls
}

fn body(arguments: &[String]) -> Structure<'_> {
    let body = arguments
        .iter()
        .fold(StructureBuilder::new(), |body, argument| body.add_field(argument.as_str()));
    // A structure has a field at least, and no method has this one.
    if arguments.is_empty() { Structure::from((0_u8,)) } else { body.build().unwrap() }
}

async fn answers_as_if_it_did_not_exist(broker: Broker) {
    let scenario = Scenario::set_up(broker, PRIVATE).await;
    let second = scenario.recorded(SECOND).await;
    let owner = scenario.secret.path().to_string();
    let lock = scenario.lock.to_string();
    let pairs = [
        (owner.clone(), owner.replace("5e6f1a2b", "5e6f1a2c")),
        (lock.clone(), "/org/vmlockd1/lock/4711".to_owned()),
        // The user has none: there is no folder either.
        ("/org/vmlockd1/owner".to_owned(), "/org/vmlockd1/owners".to_owned()),
        ("/org/vmlockd1/lock".to_owned(), "/org/vmlockd1/locks".to_owned()),
        (format!("{owner}/below"), "/org/vmlockd1/owner/none/below".to_owned()),
    ];
    for (there, absent) in pairs {
        for (interface, member, arguments) in calls(broker) {
            let body = body(&arguments);
            let mut told = Vec::new();
            for path in [&there, &absent] {
                let answer = second.call(path, interface.as_deref(), &member, &body).await;
                told.push(match answer {
                    Ok(message) => Ok(message.body().signature().to_string()),
                    Err(Refused { name, message }) => Err((name, message.replace(path, "PATH"))),
                });
            }
            assert_eq!(told[0], told[1], "{interface:?} {member} {arguments:?} of {there}");
        }
    }
    // The rest of the test is worth nothing unless these are there.
    let first = scenario.recorded(FIRST).await;
    for path in [&owner, &lock] {
        let found = first.call(path, Some(INTROSPECTABLE), "Introspect", &body(&[])).await;
        assert!(!matches!(found, Err(Refused { ref name, .. }) if name.ends_with("UnknownObject")));
    }
    assert!(
        scenario.fixture.polkit().mock().seen().iter().all(|call| !call.action.contains("manage"))
    );
}

#[tokio::test]
async fn an_object_of_another_user_answers_as_if_it_did_not_exist() {
    answers_as_if_it_did_not_exist(Broker::DbusDaemon).await;
}

#[tokio::test]
async fn an_object_of_another_user_answers_as_if_it_did_not_exist_on_dbus_broker() {
    answers_as_if_it_did_not_exist(Broker::DbusBroker).await;
}

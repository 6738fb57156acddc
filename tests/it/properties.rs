//! Properties that cannot be set, and those that can.

use roxmltree::{Document, ParsingOptions};
use zbus::wire::Structure;

use crate::dbus_client::{TestVm, call, exclusive};
use crate::fixture::{Broker, Fixture};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const LOG: (&str, &str) = ("/org/freedesktop/LogControl1", "org.freedesktop.LogControl1");

/// The properties that an interface of ours documents.
fn documented(interface: &str) -> Vec<String> {
    let path = format!("{}/dbus/{interface}.xml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let allowed = ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = Document::parse_with_options(&text, allowed).unwrap();
    let properties = document.descendants().filter(|node| node.has_tag_name("property"));
    properties.map(|property| property.attribute("name").unwrap().to_owned()).collect()
}

async fn set_says_why_it_fails(broker: Broker) {
    let fixture = Fixture::builder().broker(broker).start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let lock = machine.acquire(&[exclusive(&disk)]).await.unwrap().remove(0);
    let (owner, lock) = (machine.path().to_string(), lock.to_string());
    let set = async |path: &str, interface: &str, property: &str| {
        let value = Structure::from((interface, property, zbus::Variant::from("x")));
        call(&bus, path, (PROPERTIES, "Set"), &value).await.unwrap_err()
    };
    let mut tried = 0;
    for (path, interface) in [
        ("/org/vmlockd1", "org.vmlockd1.Manager"),
        (&*owner, "org.vmlockd1.Owner"),
        (&*lock, "org.vmlockd1.Lock"),
        ("/org/vmlockd1/lockspace/direct", "org.vmlockd1.Lockspace"),
    ] {
        for property in documented(interface) {
            let refused = set(path, interface, &property).await;
            assert_eq!(refused.name, "DBus.Error.PropertyReadOnly", "{refused:?}");
            assert_eq!(refused.message, format!("property {interface}.{property} is read-only"));
            tried += 1;
        }
        let refused = set(path, interface, "Colour").await;
        assert_eq!(refused.name, "DBus.Error.UnknownProperty", "{refused:?}");
        assert_eq!(refused.message, format!("{interface} has no property 'Colour'"));
        let refused = set(path, "org.vmlockd1.Disk", "Name").await;
        assert_eq!(refused.name, "DBus.Error.UnknownInterface", "{refused:?}");
    }
    assert!(tried > 30, "{tried}");
    let refused = set("/org/vmlockd1/owner", "org.vmlockd1.Owner", "Name").await;
    assert_eq!(refused.name, "DBus.Error.UnknownInterface", "{refused:?}");
    let refused = set("/org/vmlockd1/owner/_1", "org.vmlockd1.Owner", "Name").await;
    assert_eq!(refused.name, "DBus.Error.UnknownObject", "{refused:?}");
    let refused = set(LOG.0, LOG.1, "SyslogIdentifier").await;
    assert_eq!(refused.name, "DBus.Error.PropertyReadOnly", "{refused:?}");
    let refused = set(LOG.0, LOG.1, "LogLevel").await;
    assert_eq!(refused.name, "DBus.Error.InvalidArgs", "{refused:?}");

    let busctl = async |(path, interface): (&str, &str), property, value| {
        let line = ["set-property", "org.vmlockd1", path, interface, property, "s", value];
        fixture.run("busctl", &line).await
    };
    let ran = busctl((&owner, "org.vmlockd1.Owner"), "Name", "web2").await;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("property org.vmlockd1.Owner.Name is read-only"), "{ran:?}");
    assert_eq!(machine.owner.name().await.unwrap(), "web1");
    busctl(LOG, "LogLevel", "debug").await.ok();
    let line = ["get-property", "org.vmlockd1", LOG.0, LOG.1, "LogLevel"];
    assert_eq!(fixture.run("busctl", &line).await.ok(), "s \"debug\"\n");
}

#[tokio::test]
async fn set_says_why_it_fails_with_dbus_daemon() {
    set_says_why_it_fails(Broker::DbusDaemon).await;
}

#[tokio::test]
async fn set_says_why_it_fails_with_dbus_broker() {
    set_says_why_it_fails(Broker::DbusBroker).await;
}

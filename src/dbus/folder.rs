//! What lies in a folder of the object tree: `org.freedesktop.DBus.Introspectable`, shallow.
//!
//! zbus answers for a folder with everything below it, in full: megabytes where thousands of locks
//! are held, and past a message's largest size the bus throws the service off, at anybody's wish.
//! So folders name their children, as the specification allows, and the children answer for
//! themselves.

use std::fmt::Write as _;
use std::sync::Arc;

use zbus::Connection;
use zbus::message::Header;
use zbus::names::InterfaceName;
use zbus::object_server::Interface as _;

use super::front::Front;
use super::manager::Manager;
use super::objects::{self, Objects};
use crate::paths;
use crate::privacy::Viewer;

/// The folders above those that come and go.
pub(super) const FIXED: [&str; 3] = ["/", "/org", paths::ROOT];

const INTROSPECTABLE: InterfaceName<'static> =
    InterfaceName::from_static_str_unchecked("org.freedesktop.DBus.Introspectable");

const HEAD: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg name="xml_data" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg name="machine_uuid" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="properties" type="a{sv}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
"#;

/// One folder.
#[derive(Debug)]
pub(super) struct Folder {
    front: Arc<Front>,
    path: String,
}

impl Folder {
    /// Sees to it that a folder answers shallowly. zbus makes and removes the folders of objects
    /// with the objects, so this is asked for with each object, and mostly has nothing to do.
    pub(super) async fn ensure(
        connection: &Connection,
        front: &Arc<Front>,
        path: &str,
    ) -> zbus::Result<()> {
        let objects = connection.object_server();
        if objects.interface::<_, Self>(path).await.is_ok() {
            return Ok(());
        }
        match objects.remove_named(path, INTROSPECTABLE).await {
            Ok(_) | Err(zbus::Error::InterfaceNotFound) => {}
            Err(error) => return Err(error),
        }
        let folder = Self { front: Arc::clone(front), path: path.to_owned() };
        objects.at(path, folder).await.map(drop)
    }

    fn children(&self, viewer: Viewer) -> Vec<String> {
        let service = &self.front.service;
        let last =
            |path: zbus::OwnedObjectPath| path.rsplit('/').next().unwrap_or_default().to_owned();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self.path.as_str() {
            "/" => words(&["org"]),
            "/org" => words(&["freedesktop", "vmlockd1"]),
            paths::ROOT => {
                let mut there = vec!["lockspace"];
                let owned = || service.owner_ids().into_iter().any(|id| viewer.may_see(id.uid));
                let held = || service.count_locks(|lock| viewer.may_see(lock.owner.uid)) > 0;
                there.extend(owned().then_some("owner"));
                there.extend(held().then_some("lock"));
                words(&there)
            }
            path if path == paths::OWNERS => {
                let ids = service.owner_ids().into_iter().filter(|id| viewer.may_see(id.uid));
                ids.map(|id| last(paths::owner(id))).collect()
            }
            path if path == paths::LOCKS => {
                let numbers = service.lock_numbers(|owner| viewer.may_see(owner.uid));
                numbers.into_iter().map(|lock| last(paths::lock(lock))).collect()
            }
            _ => {
                let kinds = objects::lockspaces_of(&self.front, viewer).into_iter();
                kinds.map(|kind| kind.name().into_owned()).collect()
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "zbus passes headers by value")]
#[zbus::interface(name = "org.freedesktop.DBus.Introspectable", introspection_docs = false)]
impl Folder {
    #[zbus(out_args("xml_data"))]
    fn introspect(&self, #[zbus(header)] header: Header<'_>) -> String {
        let mut xml = HEAD.to_owned();
        if self.path == paths::ROOT {
            Objects(Arc::clone(&self.front)).introspect_to_writer(&mut xml, 2);
            Manager(Arc::clone(&self.front)).introspect_to_writer(&mut xml, 2);
        }
        for child in self.children(self.front.viewer(Some(&header))) {
            // Writing to a String has no way to fail.
            let _ = writeln!(xml, "  <node name=\"{child}\"/>");
        }
        xml.push_str("</node>\n");
        xml
    }
}

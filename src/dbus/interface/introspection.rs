//! `org.freedesktop.DBus.Introspectable` of the nodes above objects, without recursion.
//!
//! zbus replies for a node with everything below it: megabytes if thousands of locks are held, and
//! if the reply exceeds the size limit of a message, the bus disconnects the service. Any user
//! could cause that. Therefore a node lists the names of its children only, as the specification
//! allows, and each child describes itself.

use std::fmt::Write as _;
use std::sync::Arc;

use zbus::Connection;
use zbus::message::Header;
use zbus::names::InterfaceName;
use zbus::object_server::Interface as _;

use super::manager::Manager;
use super::object_manager::ObjectManager;
use super::properties;
use crate::dbus::context::Context;
use crate::paths;
use crate::privacy::Viewer;

/// The nodes that exist whether or not there are objects.
pub(crate) const STATIC_NODES: [&str; 3] = ["/", "/org", paths::ROOT];

const INTROSPECTABLE: InterfaceName<'static> =
    InterfaceName::from_static_str_unchecked("org.freedesktop.DBus.Introspectable");

const HEADER: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
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

/// A node without an object of its own, or the Manager.
#[derive(Debug)]
pub(crate) struct Node {
    context: Arc<Context>,
    path: String,
}

impl Node {
    /// Ensures that a node replies without recursion. zbus creates and removes nodes together with
    /// the objects below them, so this is called for each object that is added; usually it does
    /// nothing.
    pub(crate) async fn ensure(
        connection: &Connection,
        context: &Arc<Context>,
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
        let node = Self { context: Arc::clone(context), path: path.to_owned() };
        objects.at(path, node).await.map(drop)
    }

    /// Returns the names of the children that a viewer may see.
    fn children(&self, viewer: Viewer) -> Vec<String> {
        let service = &self.context.service;
        let name =
            |path: zbus::OwnedObjectPath| path.rsplit('/').next().unwrap_or_default().to_owned();
        let fixed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        match self.path.as_str() {
            "/" => fixed(&["org"]),
            "/org" => fixed(&["freedesktop", "vmlockd1"]),
            paths::ROOT => {
                let mut names = vec!["lockspace"];
                let any_owner = || service.owner_ids().into_iter().any(|id| viewer.may_see(id.uid));
                let any_lock = || service.count_locks(|lock| viewer.may_see(lock.owner.uid)) > 0;
                names.extend(any_owner().then_some("owner"));
                names.extend(any_lock().then_some("lock"));
                fixed(&names)
            }
            path if path == paths::OWNERS => {
                let ids = service.owner_ids().into_iter().filter(|id| viewer.may_see(id.uid));
                ids.map(|id| name(paths::owner(id))).collect()
            }
            path if path == paths::LOCKS => {
                let numbers = service.lock_numbers(|owner| viewer.may_see(owner.uid));
                numbers.into_iter().map(|lock| name(paths::lock(lock))).collect()
            }
            _ => {
                let kinds = properties::visible_lockspaces(&self.context, viewer).into_iter();
                kinds.map(|kind| kind.name().into_owned()).collect()
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "zbus passes headers by value")]
#[zbus::interface(name = "org.freedesktop.DBus.Introspectable", introspection_docs = false)]
impl Node {
    #[zbus(out_args("xml_data"))]
    fn introspect(&self, #[zbus(header)] header: Header<'_>) -> String {
        let mut xml = HEADER.to_owned();
        if self.path == paths::ROOT {
            ObjectManager::new(Arc::clone(&self.context)).introspect_to_writer(&mut xml, 2);
            Manager::new(Arc::clone(&self.context)).introspect_to_writer(&mut xml, 2);
        }
        for child in self.children(self.context.viewer(Some(&header))) {
            // Writing to a String cannot fail.
            let _ = writeln!(xml, "  <node name=\"{child}\"/>");
        }
        xml.push_str("</node>\n");
        xml
    }
}

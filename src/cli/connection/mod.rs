//! The connection to the service.
//!
//! [`ServiceConnection`] calls the service, on the bus or on its private socket. [`lists`] reads
//! lists from it, and [`runtime`] has the threads and event loops for calls.

pub(crate) mod lists;
pub(crate) mod runtime;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use rustix::process::geteuid;
use serde::Serialize;
use tokio::sync::OnceCell;
use zbus::fdo::{DBusProxy, PropertiesProxy};
use zbus::names::BusName;
use zbus::proxy::{CacheProperties, Defaults};
use zbus::wire::DynamicDeserialize;
use zbus::{Connection, DynamicType, ObjectPath, Proxy};

use crate::cli::error::Error;
use crate::cli::format::property_key;
use crate::cli::terminal::polkit_agent::{self, Agent};
use crate::client::{self, Bus, LockProxy, ManagerProxy, OwnerProxy, PRIVATE_SOCKET, Row, SERVICE};

/// Connections to the service and to its bus.
#[derive(Debug)]
pub(crate) struct ServiceConnection {
    /// The connection to the private socket of the service. It ends when the service ends.
    private: Option<Connection>,
    /// The connection to the bus, opened when it is first needed.
    bus_connection: OnceCell<Connection>,
    /// The bus of the service.
    pub(crate) bus: Bus,
    /// The uid of this process, as the bus sees it.
    pub(crate) uid: u32,
    /// Whether the service has replied that this process is in another mount namespace.
    in_other_namespace: AtomicBool,
    /// Whether the user may be prompted for a password.
    interactive: bool,
    /// Whether a call activates the service, that is, lets the bus start it if it is stopped.
    activates: bool,
}

impl ServiceConnection {
    /// Connects to the bus.
    pub(crate) async fn connect_via_bus(bus: Bus) -> Result<Self, Error> {
        let connection = bus.connect().await.map_err(Error::Connect)?;
        let uid = client::own_uid(&connection).await.map_err(Error::Connect)?;
        Ok(Self::with(None, OnceCell::from(connection), bus, uid))
    }

    /// Connects to the private socket of the service if this process is root, so that its calls do
    /// not queue behind those of others, and otherwise to the bus. An address of a bus in the
    /// environment selects the bus.
    ///
    /// Not for commands that outlive the service, since the private connection ends with the
    /// service.
    pub(crate) async fn connect(bus: Bus) -> Result<Self, Error> {
        let is_usual = std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_none();
        if bus == Bus::System && is_usual && geteuid().is_root() {
            // If no service listens there, the bus starts one, or replies why not.
            if let Ok(private) = client::connect_private(Path::new(PRIVATE_SOCKET)).await {
                return Ok(Self::with(Some(private), OnceCell::new(), bus, 0));
            }
        }
        Self::connect_via_bus(bus).await
    }

    fn with(
        private: Option<Connection>,
        bus_connection: OnceCell<Connection>,
        bus: Bus,
        uid: u32,
    ) -> Self {
        let interactive = polkit_agent::may_prompt();
        let in_other_namespace = AtomicBool::new(false);
        Self { private, bus_connection, bus, uid, in_other_namespace, interactive, activates: true }
    }

    /// Disables activation, for a command that must not start a stopped service.
    pub(crate) fn without_activation(self) -> Self {
        Self { activates: false, ..self }
    }

    /// Whether the service is called on its private socket.
    pub(crate) fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Returns the connection to the bus.
    pub(crate) async fn bus_connection(&self) -> Result<&Connection, Error> {
        self.bus_connection.get_or_try_init(|| self.bus.connect()).await.map_err(Error::Connect)
    }

    /// Returns the connection on which the service is called.
    pub(crate) async fn connection(&self) -> Result<&Connection, Error> {
        match self.live_private_connection() {
            Some(private) => Ok(private),
            None => self.bus_connection().await,
        }
    }

    /// Returns the private connection, unless it is closed.
    fn live_private_connection(&self) -> Option<&Connection> {
        self.private.as_ref().filter(|private| private.closed().now_or_never().is_none())
    }

    /// Returns the destination of calls to the service. Without activation this is its unique name,
    /// as the bus does not start a service for a call to a unique name.
    ///
    /// # Errors
    ///
    /// Fails if the service is stopped and activation is disabled.
    pub(crate) async fn destination(&self) -> Result<BusName<'static>, Error> {
        let name = BusName::try_from(SERVICE)?;
        if self.activates || self.live_private_connection().is_some() {
            return Ok(name);
        }
        let bus =
            DBusProxy::builder(self.bus_connection().await?).cache_properties(CacheProperties::No);
        let owner = bus.build().await?.get_name_owner(name).await?;
        Ok(BusName::Unique(owner.into_inner()))
    }

    /// Whether disks are passed to the service by name. A user that needs authorization for names
    /// passes open descriptors, which prove access to the disks.
    pub(crate) fn sends_names(&self) -> bool {
        (self.bus == Bus::Session || self.uid == 0)
            && !self.in_other_namespace.load(Ordering::Relaxed)
    }

    /// Switches from names to descriptors if the service refused a name since this process is in
    /// another mount namespace. Returns whether to retry the request.
    pub(crate) fn sends_descriptors_after(&self, error: &Error) -> bool {
        let sends_names = self.sends_names();
        error.is_foreign_namespace()
            && !self.in_other_namespace.swap(true, Ordering::Relaxed)
            && sends_names
    }

    /// Returns a proxy for the Manager.
    pub(crate) async fn manager(&self) -> Result<ManagerProxy<'static>, Error> {
        self.proxy(client::MANAGER_PATH).await
    }

    /// Returns a proxy for an owner.
    pub(crate) async fn owner(&self, path: &str) -> Result<OwnerProxy<'static>, Error> {
        self.proxy(path).await
    }

    /// Returns a proxy for a lock.
    pub(crate) async fn lock(&self, path: &str) -> Result<LockProxy<'static>, Error> {
        self.proxy(path).await
    }

    /// Calls a method that may prompt the user at the terminal for a password.
    pub(crate) async fn call_method<B, R>(
        &self,
        proxy: &Proxy<'_>,
        method: &str,
        arguments: &B,
    ) -> Result<R, Error>
    where
        B: Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        // Terminated at the end of the call.
        let _agent = Agent::start(self.bus).await;
        Ok(client::call(proxy, method, arguments, self.interactive).await?)
    }

    /// Returns all properties of an object, with the keys that [`property_key::key_for`] returns
    /// for them.
    pub(crate) async fn properties(&self, path: &str, interface: &str) -> Result<Row, Error> {
        let path = ObjectPath::try_from(path.to_owned())?;
        let builder = PropertiesProxy::builder(self.connection().await?);
        let builder = builder.destination(self.destination().await?).path(path);
        let proxy = builder.build().await?;
        let interface = zbus::names::InterfaceName::try_from(interface)?;
        let properties: Row = proxy.get_all(interface).await?;
        Ok(properties
            .into_iter()
            .map(|(name, value)| (property_key::key_for(&name), value))
            .collect())
    }

    async fn proxy<T>(&self, path: &str) -> Result<T, Error>
    where
        T: From<Proxy<'static>> + Defaults,
    {
        let path = ObjectPath::try_from(path.to_owned())?;
        let builder = zbus::proxy::Builder::<T>::new(self.connection().await?);
        let builder = builder.destination(self.destination().await?).path(path);
        // A command that reads once needs no cache, and no signals to keep it current.
        Ok(builder.cache_properties(CacheProperties::No).build().await?)
    }
}

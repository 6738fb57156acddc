//! The way to the service.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use nix::unistd::geteuid;
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
use crate::client::{
    self, Bus, LockProxy, ManagerProxy, Options, OwnerProxy, PRIVATE_SOCKET, Row, SERVICE, lists,
};

/// Connections to the service and to the bus that it is on.
#[derive(Debug)]
pub(crate) struct Link {
    /// To the service without a bus between. It ends when the service ends.
    private: Option<Connection>,
    /// To the bus, once it is needed.
    connection: OnceCell<Connection>,
    /// Which bus it is.
    pub(crate) bus: Bus,
    /// The uid that the bus has for this process.
    pub(crate) uid: u32,
    /// Whether names lead elsewhere for the service, as it has answered.
    foreign: AtomicBool,
    /// Whether the user may be asked for a password.
    interactive: bool,
    /// Whether a call has the bus start a service that is stopped.
    starts: bool,
}

impl Link {
    /// Connects to the bus.
    pub(crate) async fn open(bus: Bus) -> Result<Self, Error> {
        let connection = bus.connect().await.map_err(Error::Connect)?;
        let uid = client::own_uid(&connection).await.map_err(Error::Connect)?;
        Ok(Self::with(None, OnceCell::from(connection), bus, uid))
    }

    /// Connects to the service without the bus where that is possible: root, whose calls then wait
    /// behind no others. An address of a bus in the environment says that another one is meant.
    ///
    /// Not for what has to outlive the service: with that, the connection ends.
    pub(crate) async fn open_private(bus: Bus) -> Result<Self, Error> {
        let is_usual = std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_none();
        if bus == Bus::System && is_usual && geteuid().is_root() {
            // Without a service that listens there, the bus starts one, or says why not.
            if let Ok(private) = client::connect_private(Path::new(PRIVATE_SOCKET)).await {
                return Ok(Self::with(Some(private), OnceCell::new(), bus, 0));
            }
        }
        Self::open(bus).await
    }

    fn with(
        private: Option<Connection>,
        connection: OnceCell<Connection>,
        bus: Bus,
        uid: u32,
    ) -> Self {
        let interactive = polkit_agent::may_ask();
        let foreign = AtomicBool::new(false);
        Self { private, connection, bus, uid, foreign, interactive, starts: true }
    }

    /// The same link for a command that only reads: a stopped service is not started.
    pub(crate) fn into_running(self) -> Self {
        Self { starts: false, ..self }
    }

    /// Whether the service is called without a bus.
    pub(crate) fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// The connection to the bus.
    pub(crate) async fn bus(&self) -> Result<&Connection, Error> {
        self.connection.get_or_try_init(|| self.bus.connect()).await.map_err(Error::Connect)
    }

    /// The connection to call the service on.
    pub(crate) async fn service(&self) -> Result<&Connection, Error> {
        match self.open_private_connection() {
            Some(private) => Ok(private),
            None => self.bus().await,
        }
    }

    fn open_private_connection(&self) -> Option<&Connection> {
        self.private.as_ref().filter(|private| private.closed().now_or_never().is_none())
    }

    /// The name to call the service by. The bus starts no service for a call to a unique name.
    ///
    /// # Errors
    ///
    /// Where the service is stopped and must not be started.
    pub(crate) async fn destination(&self) -> Result<BusName<'static>, Error> {
        let name = BusName::try_from(SERVICE)?;
        if self.starts || self.open_private_connection().is_some() {
            return Ok(name);
        }
        let bus = DBusProxy::builder(self.bus().await?).cache_properties(CacheProperties::No);
        let owner = bus.build().await?.get_name_owner(name).await?;
        Ok(BusName::Unique(owner.into_inner()))
    }

    /// Whether disks are best asked for by name: then nobody is asked for a password. Anybody else
    /// shows by an open descriptor that he may have the disk.
    pub(crate) fn by_name(&self) -> bool {
        (self.bus == Bus::Session || self.uid == 0) && !self.foreign.load(Ordering::Relaxed)
    }

    /// Has disks opened and shown from now on, where the service refuses their names since this
    /// process is in another mount namespace. Returns whether that is worth another attempt.
    pub(crate) fn show_files_after(&self, error: &Error) -> bool {
        let by_name = self.by_name();
        error.is_foreign() && !self.foreign.swap(true, Ordering::Relaxed) && by_name
    }

    /// The Manager.
    pub(crate) async fn manager(&self) -> Result<ManagerProxy<'static>, Error> {
        self.proxy(client::MANAGER_PATH).await
    }

    /// An owner.
    pub(crate) async fn owner(&self, path: &str) -> Result<OwnerProxy<'static>, Error> {
        self.proxy(path).await
    }

    /// A lock.
    pub(crate) async fn lock(&self, path: &str) -> Result<LockProxy<'static>, Error> {
        self.proxy(path).await
    }

    /// Calls a method that may ask the person at the terminal for a password.
    pub(crate) async fn ask<B, R>(
        &self,
        proxy: &Proxy<'_>,
        method: &str,
        arguments: &B,
    ) -> Result<R, Error>
    where
        B: Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        let _agent = Agent::start(self.bus).await;
        Ok(client::call(proxy, method, arguments, self.interactive).await?)
    }

    /// All locks, with where their names lead as far as the service tells that.
    pub(crate) async fn locks(&self) -> Result<Vec<Row>, Error> {
        let checked = Options::from([("check-names", true.into())]);
        Ok(lists::locks(&self.manager().await?, checked).await?)
    }

    /// All properties of an object, with the keys that [`property_key::of_property`] makes of their names.
    pub(crate) async fn properties(&self, path: &str, interface: &str) -> Result<Row, Error> {
        let path = ObjectPath::try_from(path.to_owned())?;
        let builder = PropertiesProxy::builder(self.service().await?);
        let builder = builder.destination(self.destination().await?).path(path);
        let proxy = builder.build().await?;
        let interface = zbus::names::InterfaceName::try_from(interface)?;
        let properties: Row = proxy.get_all(interface).await?;
        Ok(properties
            .into_iter()
            .map(|(name, value)| (property_key::of_property(&name), value))
            .collect())
    }

    async fn proxy<T>(&self, path: &str) -> Result<T, Error>
    where
        T: From<Proxy<'static>> + Defaults,
    {
        let path = ObjectPath::try_from(path.to_owned())?;
        let builder = zbus::proxy::Builder::<T>::new(self.service().await?);
        let builder = builder.destination(self.destination().await?).path(path);
        // A command that reads once needs no cache, and no signals to keep it current.
        Ok(builder.cache_properties(CacheProperties::No).build().await?)
    }
}

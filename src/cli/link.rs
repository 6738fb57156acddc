//! The way to the service.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use zbus::fdo::PropertiesProxy;
use zbus::proxy::{CacheProperties, Defaults};
use zbus::wire::DynamicDeserialize;
use zbus::{Connection, DynamicType, ObjectPath, Proxy};

use super::error::Error;
use crate::client::{self, Bus, LockProxy, ManagerProxy, Options, OwnerProxy, Row, SERVICE, lists};

/// A connection to the bus that the service is on.
#[derive(Debug)]
pub(super) struct Link {
    /// The connection.
    pub(super) connection: Connection,
    /// Which bus it is.
    pub(super) bus: Bus,
    /// The uid that the bus has for this process.
    pub(super) uid: u32,
    /// Whether names lead elsewhere for the service, as it has answered.
    foreign: AtomicBool,
    /// Whether somebody sits there who could be asked for a password.
    interactive: bool,
}

impl Link {
    /// Connects.
    pub(super) async fn open(bus: Bus) -> Result<Self, Error> {
        let connection = bus.connect().await.map_err(Error::Connect)?;
        let uid = client::own_uid(&connection).await.map_err(Error::Connect)?;
        let interactive = std::io::stdin().is_terminal();
        Ok(Self { connection, bus, uid, foreign: AtomicBool::new(false), interactive })
    }

    /// Whether disks are best asked for by name: then nobody is asked for a password. Anybody else
    /// shows by an open descriptor that he may have the disk.
    pub(super) fn by_name(&self) -> bool {
        (self.bus == Bus::Session || self.uid == 0) && !self.foreign.load(Ordering::Relaxed)
    }

    /// Has disks opened and shown from now on, where the service refuses their names since this
    /// process is in another mount namespace. Returns whether that is worth another attempt.
    pub(super) fn show_files_after(&self, error: &Error) -> bool {
        let by_name = self.by_name();
        error.is_foreign() && !self.foreign.swap(true, Ordering::Relaxed) && by_name
    }

    /// The Manager.
    pub(super) async fn manager(&self) -> Result<ManagerProxy<'static>, Error> {
        self.proxy(client::MANAGER_PATH).await
    }

    /// An owner.
    pub(super) async fn owner(&self, path: &str) -> Result<OwnerProxy<'static>, Error> {
        self.proxy(path).await
    }

    /// A lock.
    pub(super) async fn lock(&self, path: &str) -> Result<LockProxy<'static>, Error> {
        self.proxy(path).await
    }

    /// Calls a method that may ask the person at the terminal for a password.
    pub(super) async fn ask<B, R>(
        &self,
        proxy: &Proxy<'_>,
        method: &str,
        arguments: &B,
    ) -> Result<R, Error>
    where
        B: Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        Ok(client::call(proxy, method, arguments, self.interactive).await?)
    }

    /// All locks, with where their names lead as far as the service tells that.
    pub(super) async fn locks(&self) -> Result<Vec<Row>, Error> {
        let checked = Options::from([("check-names", true.into())]);
        Ok(lists::locks(&self.manager().await?, checked).await?)
    }

    /// All properties of an object.
    pub(super) async fn properties(&self, path: &str, interface: &str) -> Result<Row, Error> {
        let path = ObjectPath::try_from(path.to_owned())?;
        let builder = PropertiesProxy::builder(&self.connection).destination(SERVICE).path(path);
        let proxy = builder.build().await?;
        let interface = zbus::names::InterfaceName::try_from(interface)?;
        Ok(proxy.get_all(interface).await?)
    }

    async fn proxy<T>(&self, path: &str) -> Result<T, Error>
    where
        T: From<Proxy<'static>> + Defaults,
    {
        let path = ObjectPath::try_from(path.to_owned())?;
        let builder = zbus::proxy::Builder::<T>::new(&self.connection).path(path);
        // Whoever asks once needs no cache, and no signals to keep it true.
        Ok(builder.cache_properties(CacheProperties::No).build().await?)
    }
}

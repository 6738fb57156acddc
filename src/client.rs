//! A D-Bus client of the service, for programs in Rust.
//!
//! The proxies correspond to the XML files in `dbus/`. Properties that change are not cached, since
//! a cached value may be older than the request for it.
//!
//! Signals are received by a [`Subscription`] or by the proxies. Both drop messages of other
//! senders than the service, which a plain [`zbus::MessageStream`] does not.

pub mod lists;
// A separate module, since two interfaces have signals of the same names.
mod owner;
mod private;
mod subscription;
mod uid;

use std::collections::HashMap;

use serde::Serialize;
use zbus::address::Address;
use zbus::connection::Builder;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;
use zbus::proxy::{CacheProperties, MethodFlags};
use zbus::wire::DynamicDeserialize;
use zbus::{Connection, DynamicType, Fd, OwnedFd, OwnedObjectPath, OwnedVariant, Variant};

pub use crate::bus::Bus;
pub use owner::OwnerProxy;
pub use private::{PRIVATE_SOCKET, connect_private};
pub use subscription::{Event, Subscription};

/// The name of the service on the bus.
pub const SERVICE: &str = "org.vmlockd1";
/// The path of the Manager and the `ObjectManager`.
pub const MANAGER_PATH: &str = "/org/vmlockd1";
/// The parent path of the owners.
pub const OWNERS_PATH: &str = "/org/vmlockd1/owner";
/// The parent path of the locks.
pub const LOCKS_PATH: &str = "/org/vmlockd1/lock";
/// The parent path of the lockspaces.
pub const LOCKSPACES_PATH: &str = "/org/vmlockd1/lockspace";

/// The options of a method.
pub type Options<'a> = HashMap<&'a str, Variant<'a>>;
/// A dictionary in a reply of the service. The XML documents its keys.
pub type Row = HashMap<String, OwnedVariant>;

impl Bus {
    /// Connects to the address in `DBUS_SYSTEM_BUS_ADDRESS` or `DBUS_SESSION_BUS_ADDRESS`, or to
    /// the default address of the bus. Also works in a user namespace.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no bus, or it rejects the connection.
    pub async fn connect(self) -> zbus::Result<Connection> {
        let address = match self {
            Self::System => Address::system(),
            Self::Session => Address::session(),
        }?;
        let error = match Builder::address(address.clone()).build().await {
            // The bus rejects the uid, and may close the connection before the reply is read.
            Err(error @ (zbus::Error::Handshake(_) | zbus::Error::InputOutput(_))) => error,
            done => return done,
        };
        let transport = address.transport().clone();
        let queried = tokio::task::spawn_blocking(move || uid::query(&transport)).await;
        match queried {
            Ok(Ok(uid)) => Builder::address(address).user_id(uid).build().await,
            // The first error is more specific.
            Ok(Err(_)) | Err(_) => Err(error),
        }
    }
}

/// Returns the uid of this process, as the bus sees it. In a user namespace it differs from the uid
/// that the process sees. All uids in replies of the service are those of the bus.
///
/// # Errors
///
/// Returns an error if the bus does not reply.
pub async fn own_uid(connection: &Connection) -> zbus::Result<u32> {
    let name = connection.unique_name().ok_or(zbus::Error::InvalidReply)?;
    let bus = DBusProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
    Ok(bus.get_connection_unix_user(BusName::Unique(name.as_ref().clone())).await?)
}

/// Calls a method, and allows interactive authorization with a password if `interactive` is set.
///
/// The methods of the proxies do not allow it.
///
/// # Errors
///
/// Returns the error reply of the service, or the error of the connection.
pub async fn call<B, R>(
    proxy: &zbus::Proxy<'_>,
    method: &str,
    arguments: &B,
    interactive: bool,
) -> zbus::Result<R>
where
    B: Serialize + DynamicType,
    R: for<'d> DynamicDeserialize<'d>,
{
    let flags =
        if interactive { MethodFlags::ALLOW_INTERACTIVE_AUTH } else { MethodFlags::empty() };
    let reply = proxy.call_with_flags(method, flags, arguments).await?;
    // There is a reply unless the flags suppress it.
    reply.ok_or(zbus::Error::InvalidReply)
}

/// The Manager, which opens owners and lists locks.
#[zbus::proxy(
    interface = "org.vmlockd1.Manager",
    default_service = "org.vmlockd1",
    default_path = "/org/vmlockd1"
)]
pub trait Manager {
    /// Opens an owner that lives as long as a lifeline.
    fn open_owner(
        &self,
        uuid: &str,
        name: &str,
        options: Options<'_>,
    ) -> zbus::Result<(OwnedObjectPath, OwnedFd)>;

    /// Opens an owner that lives as long as a process; 0 means the caller.
    fn register_owner(
        &self,
        uuid: &str,
        name: &str,
        pid: u32,
        options: Options<'_>,
    ) -> zbus::Result<OwnedObjectPath>;

    /// Returns the owner with a UUID: the caller's if there is one, otherwise root's.
    fn get_owner(&self, uuid: &str) -> zbus::Result<OwnedObjectPath>;

    /// Returns the owner to which a process is bound.
    #[zbus(name = "GetOwnerByPID")]
    fn get_owner_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;

    /// Lists the owners of all users.
    fn list_owners(&self, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Lists the locks of all owners.
    fn list_locks(&self, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Lists the waiting requests.
    fn list_waiting(&self, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Returns the holders of a resource.
    fn find_holders(&self, resource: &str, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Returns the holders of a file that the caller has open.
    fn find_holders_of_file(&self, file: Fd<'_>, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Returns the lock file of a resource.
    fn resolve(&self, resource: &str, options: Options<'_>) -> zbus::Result<Row>;

    /// Returns the lock file of a file that the caller has open.
    fn resolve_file(&self, file: Fd<'_>, options: Options<'_>) -> zbus::Result<Row>;

    /// Makes a directory a lockspace.
    fn create_lockspace(
        &self,
        directory: &str,
        options: Options<'_>,
    ) -> zbus::Result<OwnedObjectPath>;

    /// Removes a lockspace that is not in use, with its directory.
    fn remove_lockspace(&self, directory: &str, options: Options<'_>) -> zbus::Result<()>;

    /// Creates a lease in a lockspace.
    fn create_lease(&self, lease: &str, options: Options<'_>) -> zbus::Result<()>;

    /// Removes a lease that is not locked.
    fn remove_lease(&self, lease: &str, options: Options<'_>) -> zbus::Result<()>;

    /// Returns the metrics of the service.
    fn get_metrics(&self, options: Options<'_>) -> zbus::Result<Row>;

    /// Reads the configuration again.
    fn reload(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Re-executes the service from the installed program.
    fn reexecute(&self, options: Options<'_>) -> zbus::Result<()>;

    /// The version of the service.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;

    /// The features of the service.
    #[zbus(property(emits_changed_signal = "const"))]
    fn features(&self) -> zbus::Result<Vec<String>>;

    /// The number of owners.
    #[zbus(property(emits_changed_signal = "false"), name = "NOwners")]
    fn n_owners(&self) -> zbus::Result<u32>;

    /// The number of locks.
    #[zbus(property(emits_changed_signal = "false"), name = "NLocks")]
    fn n_locks(&self) -> zbus::Result<u32>;

    /// The number of waiting requests.
    #[zbus(property(emits_changed_signal = "false"), name = "NWaiting")]
    fn n_waiting(&self) -> zbus::Result<u32>;

    /// A lock was granted.
    #[zbus(signal)]
    fn lock_acquired(
        &self,
        lock: OwnedObjectPath,
        owner: OwnedObjectPath,
        resource: String,
        mode: String,
    ) -> zbus::Result<()>;

    /// A lock was released.
    #[zbus(signal)]
    fn lock_released(
        &self,
        lock: OwnedObjectPath,
        owner: OwnedObjectPath,
        resource: String,
        reason: String,
    ) -> zbus::Result<()>;

    /// A lock was lost although its owner is alive.
    #[zbus(signal)]
    fn lock_lost(
        &self,
        lock: OwnedObjectPath,
        owner: OwnedObjectPath,
        resource: String,
        reason: String,
    ) -> zbus::Result<()>;

    /// An owner was refused a lock, or waits for it, since other owners hold locks.
    #[zbus(signal)]
    fn lock_contended(
        &self,
        resource: String,
        holders: Vec<OwnedObjectPath>,
        owner: OwnedObjectPath,
    ) -> zbus::Result<()>;
}

/// A lock that an owner holds.
#[zbus::proxy(interface = "org.vmlockd1.Lock", default_service = "org.vmlockd1")]
pub trait Lock {
    /// Releases the lock.
    fn release(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Changes the mode of the lock.
    fn convert(&self, mode: &str, options: Options<'_>) -> zbus::Result<()>;

    /// The owner that holds the lock.
    #[zbus(property(emits_changed_signal = "const"))]
    fn owner(&self) -> zbus::Result<OwnedObjectPath>;

    /// The name by which the resource was locked.
    #[zbus(property(emits_changed_signal = "const"))]
    fn resource(&self) -> zbus::Result<String>;

    /// The file that is locked in the kernel.
    #[zbus(property(emits_changed_signal = "const"))]
    fn lock_file(&self) -> zbus::Result<String>;

    /// The identity of the resource.
    #[zbus(property(emits_changed_signal = "const"))]
    fn identity(&self) -> zbus::Result<String>;

    /// The lockspace of its lock file.
    #[zbus(property(emits_changed_signal = "const"))]
    fn lockspace(&self) -> zbus::Result<OwnedObjectPath>;

    /// The number of the lock.
    #[zbus(property(emits_changed_signal = "const"))]
    fn generation(&self) -> zbus::Result<u64>;

    /// The time at which it was granted, in microseconds since 1970.
    #[zbus(property(emits_changed_signal = "const"), name = "SinceUSec")]
    fn since_usec(&self) -> zbus::Result<u64>;

    /// The mode of the lock.
    #[zbus(property(emits_changed_signal = "false"))]
    fn mode(&self) -> zbus::Result<String>;

    /// Whether the service has verified that the lock is held.
    #[zbus(property(emits_changed_signal = "false"))]
    fn verified(&self) -> zbus::Result<bool>;

    /// The number of requests that wait for the resource.
    #[zbus(property(emits_changed_signal = "false"), name = "NWaiting")]
    fn n_waiting(&self) -> zbus::Result<u32>;
}

/// A lockspace: a rule that assigns lock files to resources.
#[zbus::proxy(interface = "org.vmlockd1.Lockspace", default_service = "org.vmlockd1")]
pub trait Lockspace {
    /// The name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> zbus::Result<String>;

    /// The rule by which lock files are assigned.
    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> zbus::Result<String>;

    /// The directory of its lock files.
    #[zbus(property(emits_changed_signal = "false"))]
    fn directory(&self) -> zbus::Result<String>;

    /// The result of the lock self-test, in a word.
    #[zbus(property(emits_changed_signal = "false"))]
    fn self_test_result(&self) -> zbus::Result<String>;

    /// The result of the lock self-test, in sentences.
    #[zbus(property(emits_changed_signal = "false"))]
    fn self_test_messages(&self) -> zbus::Result<Vec<String>>;

    /// The number of locks in the lockspace.
    #[zbus(property(emits_changed_signal = "false"), name = "NLocks")]
    fn n_locks(&self) -> zbus::Result<u32>;
}

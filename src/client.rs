//! The other end of the bus: what a program in Rust needs to talk to the service.
//!
//! The proxies say what the XML files in `dbus/` say, no more and no less. Properties that change
//! are asked for each time: an answer from a cache may be older than the question.
//!
//! Signals come from a [`Subscription`], or from the proxies; both drop what another program than the
//! service has sent. A plain [`zbus::MessageStream`] does not.

pub mod lists;
// A module of its own, since the signals of two interfaces bear the same names.
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

/// The service's name on the bus.
pub const SERVICE: &str = "org.vmlockd1";
/// Where the Manager is, and the `ObjectManager`.
pub const MANAGER_PATH: &str = "/org/vmlockd1";
/// Below it are the owners.
pub const OWNERS_PATH: &str = "/org/vmlockd1/owner";
/// Below it are the locks, by number.
pub const LOCKS_PATH: &str = "/org/vmlockd1/lock";
/// Below it are the lockspaces, by name.
pub const LOCKSPACES_PATH: &str = "/org/vmlockd1/lockspace";

/// The options of a method.
pub type Options<'a> = HashMap<&'a str, Variant<'a>>;
/// A dictionary that the service answers with; which keys it has is said in the XML.
pub type Row = HashMap<String, OwnedVariant>;

impl Bus {
    /// Connects: to where `DBUS_SYSTEM_BUS_ADDRESS` or `DBUS_SESSION_BUS_ADDRESS` says, otherwise
    /// to where these buses usually are. Works from a user namespace, too.
    ///
    /// # Errors
    ///
    /// Where there is no bus, or it does not let us in.
    pub async fn connect(self) -> zbus::Result<Connection> {
        let address = match self {
            Self::System => Address::system(),
            Self::Session => Address::session(),
        }?;
        let error = match Builder::address(address.clone()).build().await {
            // The bus rejects the uid, and may close the connection before that is read.
            Err(error @ (zbus::Error::Handshake(_) | zbus::Error::InputOutput(_))) => error,
            done => return done,
        };
        let transport = address.transport().clone();
        let asked = tokio::task::spawn_blocking(move || uid::ask(&transport)).await;
        match asked {
            Ok(Ok(uid)) => Builder::address(address).user_id(uid).build().await,
            // The first error says more.
            Ok(Err(_)) | Err(_) => Err(error),
        }
    }
}

/// Asks the bus for the uid that it has for a connection of this process. In a user namespace this
/// is not the uid that the process sees, and all that the service says of users is in these terms.
///
/// # Errors
///
/// Where the bus does not answer.
pub async fn own_uid(connection: &Connection) -> zbus::Result<u32> {
    let name = connection.unique_name().ok_or(zbus::Error::InvalidReply)?;
    let bus = DBusProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
    Ok(bus.get_connection_unix_user(BusName::Unique(name.as_ref().clone())).await?)
}

/// Calls a method and, if told so, lets the service ask the person at the screen for a password.
///
/// The methods of the proxies never let it.
///
/// # Errors
///
/// What the service answers, or that it does not answer.
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
    let answer = proxy.call_with_flags(method, flags, arguments).await?;
    // There is one unless the flags say that none is wanted.
    answer.ok_or(zbus::Error::InvalidReply)
}

/// Opens owners and tells what is locked.
#[zbus::proxy(
    interface = "org.vmlockd1.Manager",
    default_service = "org.vmlockd1",
    default_path = "/org/vmlockd1"
)]
pub trait Manager {
    /// Opens an owner that is kept alive by a lifeline.
    fn open_owner(
        &self,
        uuid: &str,
        name: &str,
        options: Options<'_>,
    ) -> zbus::Result<(OwnedObjectPath, OwnedFd)>;

    /// Opens an owner that is kept alive by a process; 0 means the caller.
    fn register_owner(
        &self,
        uuid: &str,
        name: &str,
        pid: u32,
        options: Options<'_>,
    ) -> zbus::Result<OwnedObjectPath>;

    /// Finds an owner by its UUID: the caller's own if there is one, else root's.
    fn get_owner(&self, uuid: &str) -> zbus::Result<OwnedObjectPath>;

    /// Finds the owner that a process keeps alive.
    #[zbus(name = "GetOwnerByPID")]
    fn get_owner_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;

    /// Lists the owners of all users.
    fn list_owners(&self, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Lists the locks of all owners.
    fn list_locks(&self, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Lists who waits for what.
    fn list_waiting(&self, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Tells who holds a resource.
    fn find_holders(&self, resource: &str, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Tells who holds a file that the caller has open.
    fn find_holders_of_file(&self, file: Fd<'_>, options: Options<'_>) -> zbus::Result<Vec<Row>>;

    /// Tells what would be locked.
    fn resolve(&self, resource: &str, options: Options<'_>) -> zbus::Result<Row>;

    /// Tells what would be locked for a file that the caller has open.
    fn resolve_file(&self, file: Fd<'_>, options: Options<'_>) -> zbus::Result<Row>;

    /// Makes a directory a lockspace.
    fn create_lockspace(
        &self,
        directory: &str,
        options: Options<'_>,
    ) -> zbus::Result<OwnedObjectPath>;

    /// Removes a lockspace that nobody uses, with its directory.
    fn remove_lockspace(&self, directory: &str, options: Options<'_>) -> zbus::Result<()>;

    /// Makes a lease in a lockspace.
    fn create_lease(&self, lease: &str, options: Options<'_>) -> zbus::Result<()>;

    /// Removes a lease that nobody holds.
    fn remove_lease(&self, lease: &str, options: Options<'_>) -> zbus::Result<()>;

    /// Tells how often what happened, and how long it took.
    fn get_metrics(&self, options: Options<'_>) -> zbus::Result<Row>;

    /// Reads the configuration again.
    fn reload(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Has the service replace itself by the program that is installed now.
    fn reexecute(&self, options: Options<'_>) -> zbus::Result<()>;

    /// The service's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;

    /// What the service can do.
    #[zbus(property(emits_changed_signal = "const"))]
    fn features(&self) -> zbus::Result<Vec<String>>;

    /// How many owners there are.
    #[zbus(property(emits_changed_signal = "false"), name = "NOwners")]
    fn n_owners(&self) -> zbus::Result<u32>;

    /// How many locks are held.
    #[zbus(property(emits_changed_signal = "false"), name = "NLocks")]
    fn n_locks(&self) -> zbus::Result<u32>;

    /// How many requests wait.
    #[zbus(property(emits_changed_signal = "false"), name = "NWaiting")]
    fn n_waiting(&self) -> zbus::Result<u32>;

    /// A lock has been granted.
    #[zbus(signal)]
    fn lock_acquired(
        &self,
        lock: OwnedObjectPath,
        owner: OwnedObjectPath,
        resource: String,
        mode: String,
    ) -> zbus::Result<()>;

    /// A lock has been released.
    #[zbus(signal)]
    fn lock_released(
        &self,
        lock: OwnedObjectPath,
        owner: OwnedObjectPath,
        resource: String,
        reason: String,
    ) -> zbus::Result<()>;

    /// A lock is not there any more although its owner lives.
    #[zbus(signal)]
    fn lock_lost(
        &self,
        lock: OwnedObjectPath,
        owner: OwnedObjectPath,
        resource: String,
        reason: String,
    ) -> zbus::Result<()>;

    /// Owners keep another owner from a lock.
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
    /// Releases it.
    fn release(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Changes its mode.
    fn convert(&self, mode: &str, options: Options<'_>) -> zbus::Result<()>;

    /// Who holds it.
    #[zbus(property(emits_changed_signal = "const"))]
    fn owner(&self) -> zbus::Result<OwnedObjectPath>;

    /// The name by which it was asked for.
    #[zbus(property(emits_changed_signal = "const"))]
    fn resource(&self) -> zbus::Result<String>;

    /// The file that is locked in the kernel.
    #[zbus(property(emits_changed_signal = "const"))]
    fn lock_file(&self) -> zbus::Result<String>;

    /// What the resource really is.
    #[zbus(property(emits_changed_signal = "const"))]
    fn identity(&self) -> zbus::Result<String>;

    /// By which lockspace its lock file was chosen.
    #[zbus(property(emits_changed_signal = "const"))]
    fn lockspace(&self) -> zbus::Result<OwnedObjectPath>;

    /// Its number.
    #[zbus(property(emits_changed_signal = "const"))]
    fn generation(&self) -> zbus::Result<u64>;

    /// When it was granted, in microseconds since the epoch.
    #[zbus(property(emits_changed_signal = "const"), name = "SinceUSec")]
    fn since_usec(&self) -> zbus::Result<u64>;

    /// How the resource is held.
    #[zbus(property(emits_changed_signal = "false"))]
    fn mode(&self) -> zbus::Result<String>;

    /// Whether the service has seen that it is in place.
    #[zbus(property(emits_changed_signal = "false"))]
    fn verified(&self) -> zbus::Result<bool>;

    /// How many requests wait for the resource.
    #[zbus(property(emits_changed_signal = "false"), name = "NWaiting")]
    fn n_waiting(&self) -> zbus::Result<u32>;
}

/// A rule that says which file stands for a resource.
#[zbus::proxy(interface = "org.vmlockd1.Lockspace", default_service = "org.vmlockd1")]
pub trait Lockspace {
    /// Its name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> zbus::Result<String>;

    /// How a resource leads to its lock file.
    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> zbus::Result<String>;

    /// Where its lock files are.
    #[zbus(property(emits_changed_signal = "false"))]
    fn directory(&self) -> zbus::Result<String>;

    /// What its locks are worth, in a word.
    #[zbus(property(emits_changed_signal = "false"))]
    fn self_test_result(&self) -> zbus::Result<String>;

    /// The same in sentences.
    #[zbus(property(emits_changed_signal = "false"))]
    fn self_test_messages(&self) -> zbus::Result<Vec<String>>;

    /// How many locks are held in it.
    #[zbus(property(emits_changed_signal = "false"), name = "NLocks")]
    fn n_locks(&self) -> zbus::Result<u32>;
}

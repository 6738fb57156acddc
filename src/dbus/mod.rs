//! Floor 3: the D-Bus front.
//!
//! Interface structs hold an id and a handle on the service, and no state: unpack, ask the gate,
//! call the service, pack. No method takes `&mut self`, since zbus keeps an interface locked for
//! the length of such a call. [`publish`] alone changes what objects there are.

mod binding;
mod bulk;
mod claims;
pub mod error;
mod exported;
mod facts;
mod folder;
mod front;
mod holders;
mod lists;
mod lock;
mod lockspace;
mod lockspaces;
mod log_control;
mod manager;
mod objects;
mod opening;
mod options;
mod owner;
mod private;
mod publish;
mod redact;
mod waiting;

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zbus::Connection;
use zbus::fdo::{DBusProxy, RequestNameFlags};

use crate::admission::{Admission, Socket};
use crate::auth::authorizer::Authorizer;
use crate::bus::Bus;
use crate::logging::Log;
use crate::paths;
use crate::service::Service;

use bulk::Bulk;
use exported::Exported;
pub use front::{Answer, Front, Wish};

/// The bus name.
pub const NAME: &str = "org.vmlockd1";

/// How long calls may take to be answered when the front is closed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the bus may take to answer one call of the service's own, or to let it in.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take to answer the calls by which the service leaves.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often it is looked whether they are.
const ANSWERED: Duration = Duration::from_millis(2);

/// Why the front can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no bus, or it does not let us in.
    #[error("cannot connect to the {bus} bus: {cause}")]
    NoBus {
        /// Which bus.
        bus: &'static str,
        /// The cause.
        cause: zbus::Error,
    },
    /// Somebody else is vmlockd there.
    #[error("cannot acquire the name {NAME} on the {0} bus: another vmlockd owns it")]
    NameTaken(&'static str),
    /// The bus failed at something else, such as a policy that denies the name.
    #[error("cannot serve {NAME} on the {bus} bus: {cause}")]
    Bus {
        /// Which bus.
        bus: &'static str,
        /// The cause.
        cause: zbus::Error,
    },
}

/// Opens the front: connects, shows what there is, and only then takes the name. `former` is the
/// process of a service that was killed and may still have it. Clients of the private socket, where
/// there is one, are served too.
///
/// # Errors
///
/// [`ServeError`]; nothing is left on the bus then.
pub async fn serve(
    bus: Bus,
    service: &Service,
    log: &Log,
    wishes: mpsc::Sender<Wish>,
    former: Option<u32>,
    private: Option<UnixListener>,
) -> Result<Served, ServeError> {
    let bus_name = bus.as_str();
    let privileged = match bus {
        Bus::System => 0,
        Bus::Session => rustix::process::geteuid().as_raw(),
    };
    let (admission, lookups) = Admission::new(service.clone(), privileged);
    let connected = async {
        let socket = Socket::connect(bus, &admission).await?;
        zbus::connection::Builder::socket(socket).build().await
    };
    let connection =
        answered(connected).await.map_err(|cause| ServeError::NoBus { bus: bus_name, cause })?;
    let connection = Arc::new(connection);
    match open(&connection, (bus, former), service, log, wishes, &admission).await {
        Ok((gate, mut tasks)) => {
            if let Some(listener) = private {
                tasks.spawn(private::serve(listener, privileged, gate.clone(), admission.clone()));
            }
            tasks.spawn(gate.callers.clone().reconcile(admission.clone()));
            tasks.spawn(gate.identify_all(admission.clone(), lookups));
            Ok(Served { connection, admission, tasks })
        }
        Err(cause) => {
            // Otherwise the tasks that were started would keep it.
            close(&connection).await;
            Err(match cause {
                zbus::Error::NameTaken => ServeError::NameTaken(bus_name),
                cause => ServeError::Bus { bus: bus_name, cause },
            })
        }
    }
}

/// Waits for an answer of the bus.
///
/// # Errors
///
/// [`zbus::Error::InputOutput`] with `TimedOut` if there is none in time; those of the answer.
async fn answered<T>(answer: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    let timed_out = |_| zbus::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    tokio::time::timeout(DEADLINE, answer).await.map_err(timed_out)?
}

/// Closes a connection, whatever the bus does.
async fn close(connection: &Connection) {
    match tokio::time::timeout(FAREWELL, connection.clone().close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cannot close the connection to the bus"),
        Err(_) => tracing::debug!("closing the connection to the bus timed out"),
    }
}

async fn open(
    connection: &Arc<Connection>,
    (bus, former): (Bus, Option<u32>),
    service: &Service,
    log: &Log,
    wishes: mpsc::Sender<Wish>,
    admission: &Admission,
) -> zbus::Result<(Authorizer, JoinSet<()>)> {
    let gate = match bus {
        Bus::System => {
            answered(Authorizer::system(connection, service.clone(), admission.clone())).await?
        }
        Bus::Session => {
            answered(Authorizer::session(connection, service.clone(), admission.clone())).await?
        }
    };
    let bulk = Bulk::default();
    let front = Arc::new(Front { service: service.clone(), gate: gate.clone(), wishes, bulk });
    let objects = connection.object_server();
    objects.at(paths::ROOT, objects::Objects(Arc::clone(&front))).await?;
    objects.at(paths::ROOT, Exported(manager::Manager(Arc::clone(&front)))).await?;
    let log_control = log_control::LogControl::new(Arc::clone(&front), log.clone());
    objects.at(paths::LOG_CONTROL, Exported(log_control)).await?;
    for path in folder::FIXED {
        folder::Folder::ensure(connection, &front, path).await?;
    }
    let publisher = publish::Publisher::new(Connection::clone(connection), Arc::clone(&front));
    let mut subscription = service.subscribe();
    let owners = std::mem::take(&mut subscription.owners);
    publisher.show_all(owners, std::mem::take(&mut subscription.locks)).await?;
    take_name(connection, former).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(publisher.follow(subscription));
    Ok((gate, tasks))
}

/// Takes the name. It is not queued for: a second vmlockd must fail rather than take the place of
/// one that holds locks. Two processes are none of those: `former`, which was killed, and the bus does
/// not know, since a request to a file system that does not answer keeps its connection open; and this
/// process itself, whose connection the bus had stopped reading, so that it does not see its end.
async fn take_name(connection: &Connection, former: Option<u32>) -> zbus::Result<()> {
    let mut flags = RequestNameFlags::DO_NOT_QUEUE | RequestNameFlags::ALLOW_REPLACEMENT;
    let owner = async {
        let bus = DBusProxy::new(connection).await?;
        Ok(bus.get_connection_unix_process_id(NAME.try_into()?).await.ok())
    };
    let owner = answered(owner).await?;
    if owner.is_some_and(|owner| Some(owner) == former || owner == std::process::id()) {
        flags |= RequestNameFlags::REPLACE_EXISTING;
    }
    answered(connection.request_name_with_flags(NAME, flags)).await.map(drop)
}

/// The front, open. Nothing of it is left when it is dropped: this alone keeps the connection, which
/// keeps the objects.
#[derive(Debug)]
pub struct Served {
    connection: Arc<Connection>,
    admission: Admission,
    /// What shows the table and what identifies callers, as long as this is kept.
    tasks: JoinSet<()>,
}

impl Served {
    /// Returns once the bus has gone away, or was left since it had stopped reading. Returns whether
    /// it was left.
    pub async fn closed(&self) -> bool {
        self.connection.closed().await;
        self.admission.has_stalled()
    }

    /// Closes the front, politely: calls that came are answered, those that come now are kept by
    /// the bus until the name is taken again. Who is asked something by a dialog is not waited for, nor
    /// is a bus that does not answer.
    pub async fn withdraw(self) {
        let Self { connection, admission, tasks } = self;
        let released = tokio::time::timeout(FAREWELL, connection.release_name(NAME)).await;
        let answers = released.is_ok();
        if let Ok(Err(error)) = released {
            tracing::debug!(%error, "cannot release the name on the bus");
        }
        admission.stop_reading_clients();
        // The bus keeps order: what was sent to the name before has come by now.
        let answered = async {
            tokio::task::yield_now().await;
            while !admission.is_idle() {
                tokio::time::sleep(ANSWERED).await;
            }
        };
        if tokio::time::timeout(PATIENCE, answered).await.is_err() {
            tracing::warn!("leaving the bus before all calls have been answered: timed out");
        }
        // And so do we: with this answer, those given before are on their way.
        let bus = Some("org.freedesktop.DBus");
        let last = connection.call_method(bus, "/org/freedesktop/DBus", bus, "GetId", &());
        if answers && !matches!(tokio::time::timeout(FAREWELL, last).await, Ok(Ok(_))) {
            tracing::debug!("the bus is not responding");
        }
        if !answers {
            tracing::warn!("leaving the bus without its reply: the bus is not responding");
        }
        close(&connection).await;
        drop(tasks);
    }
}

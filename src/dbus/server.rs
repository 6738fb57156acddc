//! The connection to the bus: connect, publish what exists, request the name, serve, shut down.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zbus::Connection;
use zbus::fdo::{DBusProxy, RequestNameFlags};

use super::context::{Context, ControlRequest};
use super::interface::exported::Exported;
use super::interface::introspection::{Node, STATIC_NODES};
use super::interface::log_control::LogControl;
use super::interface::manager::Manager;
use super::interface::object_manager::ObjectManager;
use super::private_socket;
use super::publish::Publisher;
use super::reply::large::LargeReplies;
use crate::admission::{Admission, Socket};
use crate::auth::authorizer::Authorizer;
use crate::bus::Bus;
use crate::logging::Log;
use crate::paths;
use crate::service::Service;

/// The bus name.
pub const NAME: &str = "org.vmlockd1";

/// How long the bus may take to accept the connection, or to reply to a call of the service.
const BUS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the calls in progress may take at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often shutdown checks for calls in progress.
const DRAIN_INTERVAL: Duration = Duration::from_millis(2);
/// How long the bus may take to reply to each call at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The reason for which the bus cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The bus does not exist, or it refuses the connection.
    #[error("cannot connect to the {bus} bus: {cause}")]
    NoBus {
        /// The bus.
        bus: &'static str,
        /// The cause.
        cause: zbus::Error,
    },
    /// Another process owns the name.
    #[error("cannot acquire the name {NAME} on the {0} bus: another vmlockd owns it")]
    NameTaken(&'static str),
    /// The bus refused another request; for example, its policy denies the name.
    #[error("cannot serve {NAME} on the {bus} bus: {cause}")]
    Bus {
        /// The bus.
        bus: &'static str,
        /// The cause.
        cause: zbus::Error,
    },
}

/// Connects to the bus, publishes all objects, and then acquires the name. `predecessor` is the
/// process of an instance that was killed and may still own the name. `private` is the private
/// socket, if its clients are to be served.
///
/// # Errors
///
/// [`ServeError`]; the connection is closed then.
pub async fn serve(
    bus: Bus,
    service: &Service,
    log: &Log,
    control: mpsc::Sender<ControlRequest>,
    predecessor: Option<u32>,
    private: Option<UnixListener>,
) -> Result<Server, ServeError> {
    let bus_name = bus.as_str();
    let privileged = match bus {
        Bus::System => 0,
        Bus::Session => rustix::process::geteuid().as_raw(),
    };
    let (admission, lookups) = Admission::new(service.clone(), privileged);
    let connect = async {
        let socket = Socket::connect(bus, &admission).await?;
        zbus::connection::Builder::socket(socket).build().await
    };
    let connection =
        with_timeout(connect).await.map_err(|cause| ServeError::NoBus { bus: bus_name, cause })?;
    let connection = Arc::new(connection);
    match start(&connection, (bus, predecessor), service, log, control, &admission).await {
        Ok((auth, mut tasks)) => {
            if let Some(listener) = private {
                let serve =
                    private_socket::serve(listener, privileged, auth.clone(), admission.clone());
                tasks.spawn(serve);
            }
            tasks.spawn(auth.callers.clone().reconcile(admission.clone()));
            tasks.spawn(auth.identify_all(admission.clone(), lookups));
            Ok(Server { connection, admission, tasks })
        }
        Err(cause) => {
            // The tasks that were started would keep the connection open.
            close(&connection).await;
            Err(match cause {
                zbus::Error::NameTaken => ServeError::NameTaken(bus_name),
                cause => ServeError::Bus { bus: bus_name, cause },
            })
        }
    }
}

/// Waits for a reply of the bus.
///
/// # Errors
///
/// [`zbus::Error::InputOutput`] with `TimedOut` if there is none in time; the errors of the reply.
async fn with_timeout<T>(reply: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    let timed_out = |_| zbus::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    tokio::time::timeout(BUS_TIMEOUT, reply).await.map_err(timed_out)?
}

/// Closes a connection, with a timeout.
async fn close(connection: &Connection) {
    match tokio::time::timeout(SHUTDOWN_TIMEOUT, connection.clone().close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cannot close the connection to the bus"),
        Err(_) => tracing::debug!("closing the connection to the bus timed out"),
    }
}

/// Publishes all objects, acquires the name, and starts the publisher.
async fn start(
    connection: &Arc<Connection>,
    (bus, predecessor): (Bus, Option<u32>),
    service: &Service,
    log: &Log,
    control: mpsc::Sender<ControlRequest>,
    admission: &Admission,
) -> zbus::Result<(Authorizer, JoinSet<()>)> {
    let (of_service, of_admission) = (service.clone(), admission.clone());
    let auth = match bus {
        Bus::System => {
            with_timeout(Authorizer::system(connection, of_service, of_admission)).await?
        }
        Bus::Session => {
            with_timeout(Authorizer::session(connection, of_service, of_admission)).await?
        }
    };
    let context = Arc::new(Context {
        service: service.clone(),
        auth: auth.clone(),
        control,
        replies: LargeReplies::default(),
    });
    let objects = connection.object_server();
    objects.at(paths::ROOT, ObjectManager::new(Arc::clone(&context))).await?;
    objects.at(paths::ROOT, Exported(Manager::new(Arc::clone(&context)))).await?;
    let log_control = LogControl::new(Arc::clone(&context), log.clone());
    objects.at(paths::LOG_CONTROL, Exported(log_control)).await?;
    for path in STATIC_NODES {
        Node::ensure(connection, &context, path).await?;
    }
    let publisher = Publisher::new(Connection::clone(connection), context);
    let mut subscription = service.subscribe();
    let owners = std::mem::take(&mut subscription.owners);
    publisher.publish_all(owners, std::mem::take(&mut subscription.locks)).await?;
    request_name(connection, predecessor).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(publisher.run(subscription));
    Ok((auth, tasks))
}

/// Requests the name, without queueing for it: a second instance must fail rather than replace one
/// that holds locks. The name is taken over from two processes only: from `predecessor`, which was
/// killed while a hung file-system request keeps its connection open, so that the bus has not
/// noticed its end; and from this process itself, if the bus had stopped reading its previous
/// connection, and has not noticed the end of that.
async fn request_name(connection: &Connection, predecessor: Option<u32>) -> zbus::Result<()> {
    let mut flags = RequestNameFlags::DO_NOT_QUEUE | RequestNameFlags::ALLOW_REPLACEMENT;
    let name_owner = async {
        let bus = DBusProxy::new(connection).await?;
        Ok(bus.get_connection_unix_process_id(NAME.try_into()?).await.ok())
    };
    let name_owner = with_timeout(name_owner).await?;
    if name_owner.is_some_and(|pid| Some(pid) == predecessor || pid == std::process::id()) {
        flags |= RequestNameFlags::REPLACE_EXISTING;
    }
    with_timeout(connection.request_name_with_flags(NAME, flags)).await.map(drop)
}

/// The D-Bus frontend while it serves a bus. Dropping it closes the connection and removes the
/// objects, which the connection owns.
#[derive(Debug)]
pub struct Server {
    connection: Arc<Connection>,
    admission: Admission,
    /// The publisher and the tasks that identify and reconcile callers; aborted on drop.
    tasks: JoinSet<()>,
}

impl Server {
    /// Waits until the connection is closed. Returns whether the service closed it because the bus
    /// had stopped reading.
    pub async fn closed(&self) -> bool {
        self.connection.closed().await;
        self.admission.has_stalled()
    }

    /// Shuts down gracefully: calls that have arrived are processed, and later ones are queued by
    /// the bus until the name is acquired again. A call that waits for a dialog, and a bus that
    /// does not respond, are not waited for.
    pub async fn shutdown(self) {
        let Self { connection, admission, tasks } = self;
        let released = tokio::time::timeout(SHUTDOWN_TIMEOUT, connection.release_name(NAME)).await;
        let is_responding = released.is_ok();
        if let Ok(Err(error)) = released {
            tracing::debug!(%error, "cannot release the name on the bus");
        }
        admission.stop_reading_clients();
        // The bus preserves order: every call that was sent to the name before has arrived.
        let drained = async {
            tokio::task::yield_now().await;
            while !admission.is_idle() {
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::warn!("leaving the bus before all calls have been answered: timed out");
        }
        // The service preserves order, too: the reply to this call follows all replies of the
        // service.
        let bus = Some("org.freedesktop.DBus");
        let last = connection.call_method(bus, "/org/freedesktop/DBus", bus, "GetId", &());
        let last = tokio::time::timeout(SHUTDOWN_TIMEOUT, last);
        if is_responding && !matches!(last.await, Ok(Ok(_))) {
            tracing::debug!("the bus is not responding");
        }
        if !is_responding {
            tracing::warn!("leaving the bus without its reply: the bus is not responding");
        }
        close(&connection).await;
        drop(tasks);
    }
}

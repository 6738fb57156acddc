//! The service as a process: it starts the components, runs the event loop, and shuts down.
//!
//! 1. The signal handlers are installed first, since each signal would end the process before.
//! 2. The descriptors that a program before this one left in this process are [inherited](Inherited).
//! 3. The configuration is loaded, and the log opened.
//! 4. [`Instance`] locks the runtime directory, so that no second instance serves it.
//! 5. [`service::restore`] recovers owners and locks from the journal and the stash.
//! 6. The frontends start: the bus, the private socket, and virtlockd's socket.
//! 7. The event loop handles signals and control requests until the service ends or
//!    [re-executes](mod@reexecute) itself.

mod bus_connection;
mod config_load;
mod idle_timer;
mod reexecute;
mod signals;
mod sockets;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::bus::Bus;
use crate::config::ConfigFile;
use crate::dbus::{ControlReply, ControlRequest, ServeError};
use crate::failpoint::failpoint;
use crate::inspector::Inspector;
use crate::inspector::WorkerLauncher;
use crate::instance::Instance;
use crate::keep::Inherited;
use crate::lock::disk::snapshot::open_lists;
use crate::lock::text::escape::reason;
use crate::logging::{FlushOnDrop, Log};
use crate::reexec::{self, Program};
use crate::service::io::executor::Executor;
use crate::service::{self, Exempt, Service};
use crate::{config, instance, keep, notify, virtlockd};
use bus_connection::{BusConnector, BusState};
use idle_timer::IdleTimer;
use reexecute::{check_successor, reexecute};
use signals::{Signals, tick};

/// How long the replies to waiting requests may take at the end of the service.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// The options of the command line and the environment.
#[derive(Debug)]
pub struct Options {
    /// The bus on which to serve.
    pub bus: Bus,
    /// The configuration file.
    pub config: ConfigFile,
    /// The directory of the state file and the sockets.
    pub runtime_dir: PathBuf,
    /// The path of virtlockd's socket, if the command line has one.
    pub virtlockd_socket: Option<PathBuf>,
    /// The path of virtlockd's socket if neither command line nor configuration has one. Served unless
    /// another process does.
    pub default_socket: Option<PathBuf>,
    /// The socket at which the service manager starts inspectors.
    pub inspector_socket: Option<PathBuf>,
    /// How long the service is idle before it exits.
    pub timeout: Option<Duration>,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Another instance is running, or the runtime directory cannot be used.
    #[error(transparent)]
    Instance(#[from] instance::Error),
    /// The state file or the stash cannot be read.
    #[error(transparent)]
    Inherit(#[from] keep::Error),
    /// Owners and locks cannot be recovered.
    #[error(transparent)]
    Restore(#[from] service::Error),
    /// The bus cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// virtlockd's socket cannot be served.
    #[error(transparent)]
    Socket(#[from] virtlockd::socket::Error),
    /// The log cannot be opened.
    #[error("{0}")]
    Log(String),
    /// A system call failed.
    #[error("cannot {doing}: {}", reason(cause))]
    System {
        /// The action, which follows "cannot" in the message.
        doing: &'static str,
        /// The cause.
        cause: std::io::Error,
    },
}

/// Runs the service until it ends.
///
/// # Errors
///
/// [`Error`], if it cannot start.
pub fn run(options: &Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(128)
        // If no thread can be started (RLIMIT_NPROC, TasksMax=), a request waits for an existing one.
        // Without any thread the runtime would panic, so threads are kept forever.
        .thread_keep_alive(Duration::from_secs(u32::MAX.into()))
        // Only the main thread receives signals: it alone has to block them before a re-execution.
        .on_thread_start(|| drop(reexec::block_signals()))
        .build()
        .map_err(|cause| Error::System { doing: "start the event loop", cause })?;
    open_lists();
    let outcome = runtime.block_on(serve(options));
    // Does not wait for requests that hang in a file system.
    runtime.shutdown_background();
    outcome
}

async fn serve(options: &Options) -> Result<(), Error> {
    let mut signals = Signals::install()?;
    let program = Program::this(options.runtime_dir.clone());
    let program =
        program.map_err(|cause| Error::System { doing: "find the path of this program", cause })?;
    let mut inherited = Inherited::take()?;
    let storage = Executor::default();
    let config = config_load::load(options, &storage).await?;
    let log = Log::open(config.log_level, options.bus == Bus::System).map_err(Error::Log)?;
    let _flush = FlushOnDrop(&log);
    let lock = inherited.lock.take();
    let is_reexecuted = lock.is_some();
    if is_reexecuted {
        reexec::reap_inherited_children();
    }
    let instance = Instance::acquire(&options.runtime_dir, lock)?;
    let exempt = match options.bus {
        Bus::System => Exempt::Root,
        Bus::Session => Exempt::All,
    };
    let (killed, configured) = (instance.killed(), config.virtlockd_socket.as_deref());
    let socket = sockets::open(options, inherited.socket.take(), configured, killed)?;
    let has_socket = socket.is_some();
    let inspector = Inspector::new(inspector_start(options.inspector_socket.clone()));
    let restored = service::restore(
        config.settings,
        exempt,
        &options.runtime_dir,
        inherited,
        storage,
        inspector,
    )?;
    let service = restored.service().clone();
    let (wishes, mut wished) = mpsc::channel(1);
    let (bus, private) = (options.bus, sockets::open_private(options, killed));
    let connector =
        BusConnector { bus, service: service.clone(), log: log.clone(), wishes, killed, private };
    // Optional after a re-execution, as the program before kept running without a bus, too; and for
    // clients of virtlockd's socket, who need no bus.
    let is_optional = is_reexecuted || has_socket;
    let mut bus_state = connector.connect(is_optional).await?;
    failpoint("restore-served");
    let server = sockets::serve(&service, restored.connections(), socket)?;
    let (version, name) = (env!("CARGO_PKG_VERSION"), bus.as_str());
    match bus_state {
        BusState::Connected(_) => tracing::info!("vmlockd {version} started on the {name} bus"),
        BusState::Connecting(_) => {
            tracing::info!(
                "vmlockd {version} started without the {name} bus; trying to connect to it again"
            );
        }
    }
    warn_unless_stashed(&service);
    notify::ready();
    restored.settle();
    let mut idle = IdleTimer::new(options.timeout);
    loop {
        let mut may_reexecute = false;
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hang_up.recv() => {
                // The log has the outcome; a signal has no reply.
                let _ = config_load::reload(options, &service, &log).await;
            }
            _ = signals.user1.recv() => may_reexecute = check_successor(&program, &options.config, &service).await.is_ok(),
            Some(wish) = wished.recv() => match wish {
                // The caller may have disconnected.
                ControlRequest::Reload(answer) => {
                    let _ = answer.send(config_load::reload(options, &service, &log).await);
                }
                ControlRequest::Reexecute(answer) => {
                    let checked = check_successor(&program, &options.config, &service).await;
                    may_reexecute = checked.is_ok();
                    let _ = ControlReply::send(answer, checked);
                }
            },
            () = tick(&mut signals.watchdog) => notify::watchdog_alive(),
            () = idle.expired(|| service.is_idle() && server.client_count() == 0) => {
                tracing::info!("exiting: vmlockd is idle");
                break;
            }
            change = bus_state.changed() => bus_state = connector.apply(change),
        }
        if may_reexecute {
            // Waiting requests, which may wait forever, are answered before the bus connection closes.
            service.close_waits(true);
            if let BusState::Connected(served) = bus_state {
                served.shutdown().await;
            }
            let error = reexecute(&program, &service, &instance, &server, &mut signals, &log).await;
            tracing::error!("cannot re-execute vmlockd, which keeps running: {error}");
            service.close_waits(false);
            bus_state = connector.reconnect();
        }
    }
    notify::stopping();
    shut_down(&service, bus_state).await;
    server.remove_socket_file();
    tracing::info!("vmlockd stopped");
    Ok(())
}

/// Returns how inspectors are started.
fn inspector_start(socket: Option<PathBuf>) -> WorkerLauncher {
    let program = PathBuf::from("/proc/self/exe");
    match socket {
        Some(path) => WorkerLauncher::Socket { path, program },
        None => WorkerLauncher::Program(program),
    }
}

/// Stops granting locks, and sends the replies of waiting requests.
async fn shut_down(service: &Service, bus_state: BusState) {
    let has_waiters = service.waiting_count() > 0;
    service.shut_down();
    if let (true, BusState::Connected(served)) = (has_waiters, bus_state) {
        // The bus name is released first, so no further client connects. A client that does not read its
        // reply in time gets none.
        let _ = tokio::time::timeout(LAST_REPLIES, served.shutdown()).await;
    }
}

/// Warns an administrator whose unit file has no file descriptor store.
fn warn_unless_stashed(service: &Service) {
    if !service.is_kept() {
        tracing::warn!(
            "locks will not survive a crash of vmlockd: there is no file descriptor store \
             (under systemd, set FileDescriptorStoreMax= in its unit)"
        );
    }
}

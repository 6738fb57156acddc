//! The service as a process: it wires the floors together, and sees to its orderly end.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, interval, sleep};
use zbus::Connection;

use crate::bus::Bus;
use crate::config::Source;
use crate::dbus::{self, Reload, ServeError};
use crate::instance::Instance;
use crate::logging::Log;
use crate::notify;
use crate::service::{Exempt, Service};
use crate::{config, instance};

/// How long to wait before a bus that went away is tried again, at first and at most.
const BUS_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the command line and the environment say.
#[derive(Debug)]
pub struct Options {
    /// Which bus is served.
    pub bus: Bus,
    /// The configuration.
    pub config: Source,
    /// Where what outlives a moment is kept.
    pub runtime_dir: PathBuf,
}

/// Why the service can't begin, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration can't be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Another one is there, or the runtime directory can't be used.
    #[error(transparent)]
    Instance(#[from] instance::Error),
    /// The bus can't be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The log can't be opened.
    #[error("{0}")]
    Log(String),
    /// The event loop or a signal handler can't be had.
    #[error("{doing}: {cause}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        cause: std::io::Error,
    },
}

/// The signals that the service knows, and a clock for systemd's watchdog.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user1: Signal,
    watchdog: Option<Interval>,
}

impl Signals {
    /// Installed before anything else can be asked of the service: until then each would kill it.
    fn install() -> Result<Self, Error> {
        let install = |kind| {
            signal(kind)
                .map_err(|cause| Error::System { doing: "installing a signal handler", cause })
        };
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            hang_up: install(SignalKind::hangup())?,
            user1: install(SignalKind::user_defined1())?,
            watchdog: notify::watchdog().map(interval),
        })
    }
}

/// Runs the service to its end.
///
/// # Errors
///
/// [`Error`], where it could not begin.
pub fn run(options: &Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(64)
        .build()
        .map_err(|cause| Error::System { doing: "starting the event loop", cause })?;
    let outcome = runtime.block_on(serve(options));
    // A request to a file system that hangs would otherwise hold up the end for ever.
    runtime.shutdown_background();
    outcome
}

async fn serve(options: &Options) -> Result<(), Error> {
    let mut signals = Signals::install()?;
    let config = options.config.load()?;
    let log = Log::begin(config.log_level).map_err(Error::Log)?;
    let _instance = Instance::begin(&options.runtime_dir)?;
    raise_descriptor_limit();
    let exempt = match options.bus {
        Bus::System => Exempt::Root,
        Bus::Session => Exempt::Everybody,
    };
    let service = Service::new(config.settings, exempt);
    let (reload, mut reloads) = mpsc::channel(1);
    let mut connection = dbus::serve(options.bus, &service, &log, reload.clone()).await?;
    tracing::info!("vmlockd {} serves the {} bus", env!("CARGO_PKG_VERSION"), options.bus.as_str());
    notify::ready();
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hang_up.recv() => {
                // Said in the log; a signal has nobody else to tell.
                let _ = load_again(options, &service, &log).await;
            }
            _ = signals.user1.recv() => {
                tracing::warn!("SIGUSR1 asks for a new binary, which this version can't change to");
            }
            Some(answer) = reloads.recv() => {
                let answer: Reload = answer;
                let loaded = load_again(options, &service, &log).await;
                // Whoever asked may have left.
                let _ = answer.send(loaded);
            }
            () = tick(&mut signals.watchdog) => notify::alive(),
            () = connection.closed() => {
                tracing::error!("the {} bus went away; all locks stay", options.bus.as_str());
                let again = tokio::select! {
                    connection = serve_again(options.bus, &service, &log, &reload) => connection,
                    _ = signals.terminate.recv() => break,
                    _ = signals.interrupt.recv() => break,
                };
                connection = again;
                tracing::info!("back on the {} bus", options.bus.as_str());
            }
        }
    }
    notify::stopping();
    service.shut_down();
    tracing::info!("vmlockd ends");
    Ok(())
}

/// Tries until the bus is there again. The machines that hold locks live on meanwhile, and so do
/// their locks; only nobody can ask for any.
async fn serve_again(
    bus: Bus,
    service: &Service,
    log: &Log,
    reload: &mpsc::Sender<Reload>,
) -> Connection {
    let (mut pause, longest) = BUS_PAUSE;
    loop {
        sleep(pause).await;
        match dbus::serve(bus, service, log, reload.clone()).await {
            Ok(connection) => return connection,
            Err(error) => tracing::debug!("{error}"),
        }
        pause = (pause * 2).min(longest);
    }
}

/// Loads the configuration: the new settings, or the old ones and an error.
async fn load_again(options: &Options, service: &Service, log: &Log) -> Result<(), String> {
    notify::reloading();
    let source = options.config.clone();
    let loaded = tokio::task::spawn_blocking(move || source.load()).await;
    let outcome = match loaded {
        Ok(Ok(config)) => {
            service.change_settings(config.settings).await;
            log.set_level(config.log_level)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match &outcome {
        Ok(()) => tracing::info!("configuration loaded"),
        Err(error) => tracing::error!("configuration not loaded, the old one stays: {error}"),
    }
    notify::ready();
    outcome
}

async fn tick(clock: &mut Option<Interval>) {
    match clock {
        Some(clock) => drop(clock.tick().await),
        None => std::future::pending().await,
    }
}

/// Every lock and every anchor takes a descriptor, and the usual soft limit of 1,024 is a relic of
/// select(2), which nothing here calls.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on descriptors can't be raised");
    }
}

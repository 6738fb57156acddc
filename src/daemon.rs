//! The service as a process: it wires the floors together, and sees to its orderly end.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::kill;
use nix::unistd::getpid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, interval, sleep, timeout};

use crate::bus::Bus;
use crate::config::Source;
use crate::dbus::{self, Answer, ServeError, Served, Wish};
use crate::instance::Instance;
use crate::keep::Inherited;
use crate::lock::work::Work;
use crate::logging::Log;
use crate::notify;
use crate::reexec::{self, Program};
use crate::service::storage::Storage;
use crate::service::{self, Exempt, Service};
use crate::step::step;
use crate::{config, instance, keep};

/// How long to wait before a bus that went away is tried again, at first and at most.
const BUS_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long storage that is named in the configuration may take to answer.
const STORAGE_PAUSE: Duration = Duration::from_secs(3);
/// How long requests to file systems may take to end before the program replaces itself.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

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
    /// What was kept can't be read back.
    #[error(transparent)]
    Inherit(#[from] keep::Error),
    /// What was kept can't be taken up again.
    #[error(transparent)]
    Restore(#[from] service::Error),
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
        let signals = Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            hang_up: install(SignalKind::hangup())?,
            user1: install(SignalKind::user_defined1())?,
            watchdog: notify::watchdog().map(interval),
        };
        reexec::let_signals_through()
            .map_err(|cause| Error::System { doing: "letting signals through", cause })?;
        Ok(signals)
    }

    /// Leaves all signals to the program that replaces this one, those too that have come by now
    /// and that nobody has seen to: a second one, or one to end.
    async fn leave(&mut self) -> std::io::Result<()> {
        reexec::hold_signals()?;
        // For a turn of the event loop, which is when those that have come are noticed.
        sleep(Duration::from_millis(1)).await;
        let all = [&mut self.terminate, &mut self.interrupt, &mut self.hang_up, &mut self.user1];
        for (signal, kind) in all.into_iter().zip(reexec::SIGNALS) {
            let come = tokio::select! {
                biased;
                _ = signal.recv() => true,
                () = std::future::ready(()) => false,
            };
            if come {
                kill(getpid(), kind)?;
            }
        }
        Ok(())
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
        // Signals are this thread's: it alone has to hold them back when the program is replaced.
        .on_thread_start(|| drop(reexec::hold_signals()))
        .build()
        .map_err(|cause| Error::System { doing: "starting the event loop", cause })?;
    let outcome = runtime.block_on(serve(options));
    // A request to a file system that hangs would otherwise hold up the end for ever.
    runtime.shutdown_background();
    outcome
}

async fn serve(options: &Options) -> Result<(), Error> {
    let mut signals = Signals::install()?;
    let program = Program::this(options.runtime_dir.clone());
    let program =
        program.map_err(|cause| Error::System { doing: "finding this program", cause })?;
    let mut inherited = Inherited::take()?;
    let storage = Storage::default();
    let config = load_first(options, &storage).await?;
    let log = Log::begin(config.log_level).map_err(Error::Log)?;
    let lock = inherited.lock.take();
    let replaces = lock.is_some();
    let instance = Instance::begin(&options.runtime_dir, lock)?;
    raise_descriptor_limit();
    let exempt = match options.bus {
        Bus::System => Exempt::Root,
        Bus::Session => Exempt::Everybody,
    };
    let restored =
        service::restore(config.settings, exempt, &options.runtime_dir, inherited, storage)?;
    let service = restored.service().clone();
    let (wishes, mut wished) = mpsc::channel(1);
    let bus = options.bus;
    let front = Front { bus, service: &service, log: &log, wishes: &wishes };
    let served = if replaces {
        // The program before this one would have gone on without a bus, and so does this.
        front.open_again(&mut signals).await
    } else {
        Some(front.open().await?)
    };
    let Some(mut served) = served else { return Ok(()) };
    step("restore-served");
    tracing::info!("vmlockd {} serves the {} bus", env!("CARGO_PKG_VERSION"), bus.as_str());
    if !service.is_kept() {
        tracing::warn!(
            "nobody keeps the descriptors of locks: they do not outlive a crash of vmlockd \
             (under systemd, FileDescriptorStoreMax= of its unit)"
        );
    }
    notify::ready();
    restored.settle();
    loop {
        let mut reexecute = false;
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hang_up.recv() => {
                // Said in the log; a signal has nobody else to tell.
                let _ = load_again(options, &service, &log).await;
            }
            _ = signals.user1.recv() => reexecute = is_fit(&program, &options.config).await.is_ok(),
            Some(wish) = wished.recv() => match wish {
                // Whoever asked may have left.
                Wish::Reload(answer) => {
                    let _ = answer.send(load_again(options, &service, &log).await);
                }
                Wish::Reexecute(answer) => {
                    let fit = is_fit(&program, &options.config).await;
                    reexecute = fit.is_ok();
                    let _ = Answer::send(answer, fit);
                }
            },
            () = tick(&mut signals.watchdog) => notify::alive(),
            () = served.closed() => {
                tracing::error!("the {} bus went away; all locks stay", bus.as_str());
                drop(served);
                let Some(again) = front.open_again(&mut signals).await else { break };
                served = again;
                tracing::info!("back on the {} bus", bus.as_str());
            }
        }
        if reexecute {
            served.withdraw().await;
            let error = replace(&program, &service, &instance, &mut signals).await;
            tracing::error!("vmlockd goes on as it is: {error}");
            let Some(again) = front.open_again(&mut signals).await else { break };
            served = again;
        }
    }
    notify::stopping();
    service.shut_down();
    tracing::info!("vmlockd ends");
    Ok(())
}

/// Asks the program that is installed now whether it could take over.
async fn is_fit(program: &Program, config: &Source) -> Result<(), String> {
    // Where one need not be there, none is right, too.
    let there = config.required || config.path.exists();
    let fit = program
        .check(there.then_some(config.path.as_path()))
        .await
        .map_err(|error| error.to_string());
    if let Err(error) = &fit {
        tracing::error!("vmlockd is not replaced, and goes on as it is: {error}");
    }
    fit
}

/// Replaces this program by the one that is installed now; returns only if that can't be done.
async fn replace(
    program: &Program,
    service: &Service,
    instance: &Instance,
    signals: &mut Signals,
) -> reexec::Error {
    if let Err(error) = signals.leave().await {
        tracing::error!(%error, "signals that come now are lost");
    }
    // A thread that is in the kernel and does not come back holds up the exec, and the service.
    let idle = timeout(LAST_REQUESTS, service.storage().idle()).await.is_ok();
    // From here on nothing else may run on this thread: it could begin another request.
    let handed = if idle {
        service.hand_down(instance.as_fd()).map_err(reexec::Error::from)
    } else {
        Err(reexec::Error::Hanging)
    };
    let inherited = match handed {
        Ok(inherited) => inherited,
        Err(error) => {
            if let Err(error) = reexec::let_signals_through() {
                tracing::error!(%error, "signals stay blocked");
            }
            return error;
        }
    };
    tracing::info!("vmlockd {} is replaced by what is installed now", env!("CARGO_PKG_VERSION"));
    step("reexec");
    let error = program.replace(&inherited);
    if let Err(error) = reexec::let_signals_through() {
        tracing::error!(%error, "signals stay blocked");
    }
    if let Err(error) = service.keep_back(instance.as_fd()) {
        tracing::error!(%error, "descriptors would be inherited by other programs");
    }
    error
}

/// Loads a configuration: a request to the file system, as it opens the directories that are named.
/// One that hangs is waited for before the program replaces itself, as any other.
struct Load(Source);

impl Work for Load {
    type Answer = Result<config::Config, config::Error>;

    fn perform(self) -> Self::Answer {
        self.0.load()
    }
}

/// Loads the configuration at the start. Storage that it names and that does not answer must not
/// keep the service down: it is looked at when it is used.
async fn load_first(options: &Options, storage: &Storage) -> Result<config::Config, Error> {
    let loading = storage.run(Load(options.config.clone()));
    if let Ok(config) = timeout(STORAGE_PAUSE, loading).await {
        return Ok(config??);
    }
    // There is no log yet.
    eprintln!("vmlockd: storage that the configuration names does not answer");
    Ok(options.config.load_text()?)
}

/// What it takes to be on the bus.
struct Front<'s> {
    bus: Bus,
    service: &'s Service,
    log: &'s Log,
    wishes: &'s mpsc::Sender<Wish>,
}

impl Front<'_> {
    async fn open(&self) -> Result<Served, ServeError> {
        dbus::serve(self.bus, self.service, self.log, self.wishes.clone()).await
    }

    /// Tries until the bus is there again. The machines that hold locks live on meanwhile, and so
    /// do their locks; only nobody can ask for any. `None`: the service is to end.
    async fn open_again(&self, signals: &mut Signals) -> Option<Served> {
        let trying = async {
            let (mut pause, longest) = BUS_PAUSE;
            loop {
                match self.open().await {
                    Ok(served) => return served,
                    Err(error) => tracing::debug!("{error}"),
                }
                sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        };
        tokio::pin!(trying);
        loop {
            tokio::select! {
                served = &mut trying => return Some(served),
                _ = signals.terminate.recv() => return None,
                _ = signals.interrupt.recv() => return None,
                () = tick(&mut signals.watchdog) => notify::alive(),
            }
        }
    }
}

/// Loads the configuration: the new settings, or the old ones and an error.
async fn load_again(options: &Options, service: &Service, log: &Log) -> Result<(), String> {
    notify::reloading();
    let loading = service.storage().run(Load(options.config.clone()));
    let outcome = match timeout(STORAGE_PAUSE, loading).await {
        Ok(Ok(Ok(config))) => {
            service.change_settings(config.settings).await;
            log.set_level(config.log_level)
        }
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("storage that it names does not answer".to_owned()),
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

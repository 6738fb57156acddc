//! The service as a process: it wires the floors together, and sees to its orderly end.

mod door;
mod front;
mod idle;
mod load;
mod replace;
mod signals;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::bus::Bus;
use crate::config::Source;
use crate::dbus::{Answer, ServeError, Wish};
use crate::inspector::Inspector;
use crate::inspector::hand::Start;
use crate::instance::Instance;
use crate::keep::Inherited;
use crate::lock::printable::reason;
use crate::lock::snapshot::open_lists;
use crate::logging::Log;
use crate::reexec::{self, Program};
use crate::service::storage::Storage;
use crate::service::{self, Exempt, Service};
use crate::step::step;
use crate::{config, instance, keep, notify, virtlockd};
use front::{Front, State};
use idle::Idle;
use replace::{may_replace, replace};
use signals::{Signals, tick};

/// How long it may take to tell those who wait that the service ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What the command line and the environment say.
#[derive(Debug)]
pub struct Options {
    /// Which bus is served.
    pub bus: Bus,
    /// The configuration.
    pub config: Source,
    /// Where what outlives a moment is kept.
    pub runtime_dir: PathBuf,
    /// virtlockd's socket, as the command line names it.
    pub virtlockd_socket: Option<PathBuf>,
    /// virtlockd's socket where nobody names another: served if nobody else does.
    pub default_socket: Option<PathBuf>,
    /// The socket at which the service manager starts inspectors.
    pub inspector_socket: Option<PathBuf>,
    /// After how long without anybody who needs it the service ends.
    pub timeout: Option<Duration>,
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
    /// virtlockd's socket can't be served.
    #[error(transparent)]
    Socket(#[from] virtlockd::socket::Error),
    /// The log can't be opened.
    #[error("{0}")]
    Log(String),
    /// The event loop or a signal handler can't be had.
    #[error("cannot {doing}: {}", reason(cause))]
    System {
        /// What failed, in words that follow "cannot".
        doing: &'static str,
        /// The cause.
        cause: std::io::Error,
    },
}

/// Runs the service to its end.
///
/// # Errors
///
/// [`Error`], where it could not begin.
pub fn run(options: &Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(128)
        // A request for which no thread can be had (RLIMIT_NPROC, TasksMax=) waits for one that there
        // is. Without any, the runtime would panic, so those that were had once are kept.
        .thread_keep_alive(Duration::from_secs(u32::MAX.into()))
        // Signals are this thread's: it alone has to hold them back when the program is replaced.
        .on_thread_start(|| drop(reexec::hold_signals()))
        .build()
        .map_err(|cause| Error::System { doing: "start the event loop", cause })?;
    open_lists();
    let outcome = runtime.block_on(serve(options));
    // A request to a file system that hangs would otherwise hold up the end for ever.
    runtime.shutdown_background();
    outcome
}

async fn serve(options: &Options) -> Result<(), Error> {
    let mut signals = Signals::install()?;
    let program = Program::this(options.runtime_dir.clone());
    let program =
        program.map_err(|cause| Error::System { doing: "find the path of this program", cause })?;
    let mut inherited = Inherited::take()?;
    let storage = Storage::default();
    let config = load::first(options, &storage).await?;
    let log = Log::begin(config.log_level, options.bus == Bus::System).map_err(Error::Log)?;
    let lock = inherited.lock.take();
    let replaces = lock.is_some();
    if replaces {
        reexec::see_off_children();
    }
    let instance = Instance::begin(&options.runtime_dir, lock)?;
    let exempt = match options.bus {
        Bus::System => Exempt::Root,
        Bus::Session => Exempt::Everybody,
    };
    let (former, named) = (instance.former(), config.virtlockd_socket.as_deref());
    let socket = door::open(options, inherited.socket.take(), named, former)?;
    let by_socket = socket.is_some();
    let inspector = Inspector::new(inspectors(options.inspector_socket.clone()));
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
    let (bus, private) = (options.bus, door::open_private(options, former));
    let front = Front { bus, service: service.clone(), log: log.clone(), wishes, former, private };
    // The program before this one would have gone on without a bus, and so does this; and
    // clients of the socket need none.
    let mut state = front.begin(replaces || by_socket).await?;
    step("restore-served");
    let server = door::serve(&service, restored.connections(), socket)?;
    let (version, name) = (env!("CARGO_PKG_VERSION"), bus.as_str());
    match state {
        State::Served(_) => tracing::info!("vmlockd {version} started on the {name} bus"),
        State::Away(_) => {
            tracing::info!(
                "vmlockd {version} started without the {name} bus; trying to connect to it again"
            );
        }
    }
    warn_unless_kept(&service);
    notify::ready();
    restored.settle();
    let mut idle = Idle::new(options.timeout);
    loop {
        let mut reexecute = false;
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hang_up.recv() => {
                // Said in the log; a signal has nobody else to tell.
                let _ = load::again(options, &service, &log).await;
            }
            _ = signals.user1.recv() => reexecute = may_replace(&program, &options.config, &service).await.is_ok(),
            Some(wish) = wished.recv() => match wish {
                // Whoever asked may have left.
                Wish::Reload(answer) => {
                    let _ = answer.send(load::again(options, &service, &log).await);
                }
                Wish::Reexecute(answer) => {
                    let fit = may_replace(&program, &options.config, &service).await;
                    reexecute = fit.is_ok();
                    let _ = Answer::send(answer, fit);
                }
            },
            () = tick(&mut signals.watchdog) => notify::alive(),
            () = idle.is_over(|| service.is_idle() && server.count() == 0) => {
                tracing::info!("exiting: vmlockd is idle");
                break;
            }
            change = state.change() => state = front.follow(change),
        }
        if reexecute {
            // Who waits could wait for ever, and calls are answered before the front is closed.
            service.close_waits(true);
            if let State::Served(served) = state {
                served.withdraw().await;
            }
            log.finish();
            let error = replace(&program, &service, &instance, &server, &mut signals).await;
            tracing::error!("cannot re-execute vmlockd, which keeps running: {error}");
            service.close_waits(false);
            state = front.try_again();
        }
    }
    notify::stopping();
    end(&service, state).await;
    server.close();
    tracing::info!("vmlockd stopped");
    log.finish();
    Ok(())
}

/// How inspectors are started.
fn inspectors(socket: Option<PathBuf>) -> Start {
    let program = PathBuf::from("/proc/self/exe");
    match socket {
        Some(path) => Start::Socket { path, program },
        None => Start::Program(program),
    }
}

/// Nothing is given any more. Those who wait are told why they wait no more.
async fn end(service: &Service, state: State) {
    let waiting = service.waiting_count() > 0;
    service.shut_down();
    if let (true, State::Served(served)) = (waiting, state) {
        // The name goes first, so nobody else is let in; who asks too much is not waited for.
        let _ = tokio::time::timeout(LAST_ANSWERS, served.withdraw()).await;
    }
}

/// What whoever starts the service may have overlooked.
fn warn_unless_kept(service: &Service) {
    if !service.is_kept() {
        tracing::warn!(
            "locks will not survive a crash of vmlockd: there is no file descriptor store \
             (under systemd, set FileDescriptorStoreMax= in its unit)"
        );
    }
}

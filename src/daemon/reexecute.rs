//! Re-executes the service from the installed program, and keeps all locks.
//!
//! 1. [`check_successor`] asks the installed program whether it can take over, while the service runs
//!    as usual.
//! 2. [`reexecute`] blocks signals, stops new file system requests, and waits for running ones: a thread
//!    that hangs in the kernel would block `execve(2)`.
//! 3. The descriptors of the lock, the socket and the stash are made inheritable.
//! 4. `execve(2)` replaces the program. If it fails, everything is rolled back.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use tokio::time::timeout;

use super::signals::Signals;
use crate::config::ConfigFile;
use crate::failpoint::failpoint;
use crate::instance::Instance;
use crate::keep::OwnDescriptors;
use crate::lock::descriptor::closer;
use crate::logging::Log;
use crate::reexec::{self, Program};
use crate::service::Service;
use crate::virtlockd::Server;

/// How long running file system requests may take to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Step 1: checks that no request hangs, and that the installed program can take over.
pub(super) async fn check_successor(
    program: &Program,
    config: &ConfigFile,
    service: &Service,
) -> Result<(), String> {
    let checked = match check_not_hanging(service).await {
        // A configuration file that is missing, and optional, cannot be checked.
        Ok(()) => {
            let exists = config.required || config.path.exists();
            program.check(exists.then_some(config.path.as_path())).await
        }
        Err(error) => Err(error),
    };
    let checked = checked.map_err(|error| error.to_string());
    if let Err(error) = &checked {
        tracing::error!("cannot re-execute vmlockd, which keeps running: {error}");
    }
    checked
}

async fn check_not_hanging(service: &Service) -> Result<(), reexec::Error> {
    if drain_closer().await && service.executor().is_responsive().await {
        Ok(())
    } else {
        Err(reexec::Error::Hanging)
    }
}

/// Waits until all descriptors of callers are closed. Returns whether they are in time.
async fn drain_closer() -> bool {
    let drained = tokio::task::spawn_blocking(|| closer::drain(DRAIN_TIMEOUT)).await;
    drained.unwrap_or(false)
}

/// Steps 2 to 4. Returns only if a step fails.
pub(super) async fn reexecute(
    program: &Program,
    service: &Service,
    instance: &Instance,
    server: &Server,
    signals: &mut Signals,
    log: &Log,
) -> reexec::Error {
    // Also stops the worker threads that serve virtlockd's clients.
    service.executor().close(true);
    let error = try_reexecute(program, service, instance, server, signals, log).await;
    service.executor().close(false);
    error
}

async fn try_reexecute(
    program: &Program,
    service: &Service,
    instance: &Instance,
    server: &Server,
    signals: &mut Signals,
    log: &Log,
) -> reexec::Error {
    if let Err(error) = signals.block_and_requeue().await {
        tracing::error!(%error, "signals that arrive during re-execution are lost");
    }
    let is_drained = drain_closer().await
        && timeout(DRAIN_TIMEOUT, service.executor().idle()).await.is_ok()
        // The last requests may have left descriptors to close, which takes no time unless it hangs.
        && closer::drain(Duration::from_millis(100));
    // From here on nothing may be awaited: another task could start a request.
    let hand_down = |socket: Option<BorrowedFd<'_>>| {
        service
            .prepare_exec(OwnDescriptors { lock: instance.as_fd(), socket })
            .map_err(reexec::Error::from)
    };
    let handed_down = if is_drained {
        let handed_down = server.with_listener(|socket| hand_down(Some(socket)));
        handed_down.unwrap_or_else(|| hand_down(None))
    } else {
        Err(reexec::Error::Hanging)
    };
    let inherited = match handed_down {
        Ok(inherited) => inherited,
        Err(error) => {
            unblock_signals();
            return error;
        }
    };
    tracing::info!("vmlockd {} is re-executing the installed program", env!("CARGO_PKG_VERSION"));
    failpoint("reexec");
    // execve(2) ends the thread that writes the log.
    log.flush();
    let error = program.execute(&inherited);
    // Rollback.
    unblock_signals();
    let keep_back = |socket: Option<BorrowedFd<'_>>| {
        service.cancel_exec(OwnDescriptors { lock: instance.as_fd(), socket })
    };
    let kept_back = server.with_listener(|socket| keep_back(Some(socket)));
    if let Err(error) = kept_back.unwrap_or_else(|| keep_back(None)) {
        tracing::error!(%error, "other programs may inherit descriptors of vmlockd");
    }
    error
}

fn unblock_signals() {
    if let Err(error) = reexec::unblock_signals() {
        tracing::error!(%error, "cannot unblock signals");
    }
}

//! How the program that is installed now takes this one's place.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use tokio::time::timeout;

use super::signals::Signals;
use crate::config::Source;
use crate::instance::Instance;
use crate::keep::inherited::Legacy;
use crate::lock::closer;
use crate::reexec::{self, Program};
use crate::service::Service;
use crate::step::step;
use crate::virtlockd::Server;

/// How long requests to file systems may take to end before the program replaces itself.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// Checks, while everything goes on, that nothing would hold up the end of this program, and asks the
/// one that is installed now whether it could take over.
pub(super) async fn may_replace(
    program: &Program,
    config: &Source,
    service: &Service,
) -> Result<(), String> {
    let may = may_leave(service).await;
    let fit = match may {
        // Where none need be there, none is right, too.
        Ok(()) => {
            let there = config.required || config.path.exists();
            program.check(there.then_some(config.path.as_path())).await
        }
        Err(error) => Err(error),
    };
    let fit = fit.map_err(|error| error.to_string());
    if let Err(error) = &fit {
        tracing::error!("cannot re-execute vmlockd, which keeps running: {error}");
    }
    fit
}

/// A thread that hangs in the kernel would hold up the `execve(2)`.
async fn may_leave(service: &Service) -> Result<(), reexec::Error> {
    if are_closed().await && service.storage().is_responsive().await {
        Ok(())
    } else {
        Err(reexec::Error::Hanging)
    }
}

/// Whether all descriptors of callers are closed, or will be soon.
async fn are_closed() -> bool {
    let drained = tokio::task::spawn_blocking(|| closer::drain(LAST_REQUESTS)).await;
    drained.unwrap_or(false)
}

/// Replaces this program by the one that is installed now; returns only if that can't be done.
pub(super) async fn replace(
    program: &Program,
    service: &Service,
    instance: &Instance,
    server: &Server,
    signals: &mut Signals,
) -> reexec::Error {
    // Clients of virtlockd's socket are served by other threads.
    service.storage().close(true);
    let error = try_to_replace(program, service, instance, server, signals).await;
    service.storage().close(false);
    error
}

async fn try_to_replace(
    program: &Program,
    service: &Service,
    instance: &Instance,
    server: &Server,
    signals: &mut Signals,
) -> reexec::Error {
    if let Err(error) = signals.leave().await {
        tracing::error!(%error, "signals that arrive during re-execution are lost");
    }
    // A thread that is in the kernel and does not come back holds up the exec, and the service.
    let idle = are_closed().await
        && timeout(LAST_REQUESTS, service.storage().idle()).await.is_ok()
        // Those of the requests that have ended meanwhile are closed at once, or hang.
        && closer::drain(Duration::from_millis(100));
    // From here on nothing else may run on this thread: it could begin another request.
    let hand_down = |socket: Option<BorrowedFd<'_>>| {
        service.hand_down(Legacy { lock: instance.as_fd(), socket }).map_err(reexec::Error::from)
    };
    let handed = if idle {
        let passed = server.with_listener(|socket| hand_down(Some(socket)));
        passed.unwrap_or_else(|| hand_down(None))
    } else {
        Err(reexec::Error::Hanging)
    };
    let inherited = match handed {
        Ok(inherited) => inherited,
        Err(error) => {
            if let Err(error) = reexec::let_signals_through() {
                tracing::error!(%error, "cannot unblock signals");
            }
            return error;
        }
    };
    tracing::info!("vmlockd {} is re-executing the installed program", env!("CARGO_PKG_VERSION"));
    step("reexec");
    let error = program.replace(&inherited);
    if let Err(error) = reexec::let_signals_through() {
        tracing::error!(%error, "cannot unblock signals");
    }
    let keep_back = |socket: Option<BorrowedFd<'_>>| {
        service.keep_back(Legacy { lock: instance.as_fd(), socket })
    };
    let kept = server.with_listener(|socket| keep_back(Some(socket)));
    if let Err(error) = kept.unwrap_or_else(|| keep_back(None)) {
        tracing::error!(%error, "other programs may inherit descriptors of vmlockd");
    }
    error
}

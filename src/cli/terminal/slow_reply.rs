//! Reports requests that the service has not answered for some time.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::time::timeout;

use crate::cli::terminal::output::is_quiet;
use crate::cli::terminal::polkit_agent;
use crate::lock::text::escape::shown_path;

/// The time after which a missing reply is reported.
pub(crate) const REPORT_DELAY: Duration = Duration::from_secs(5);

/// Awaits a reply about these disks or leases. If it is late, reports once that it is awaited. A
/// request that hangs in the kernel cannot be cancelled, so the wait continues.
pub(crate) async fn report_slow<T>(
    paths: impl IntoIterator<Item = &Path>,
    answer: impl Future<Output = T>,
) -> T {
    tokio::pin!(answer);
    if let Ok(answer) = timeout(REPORT_DELAY, &mut answer).await {
        return answer;
    }
    report(paths);
    answer.await
}

/// Opens or reads files. If that takes long, reports it as [`report_slow`] does.
pub(crate) fn report_slow_files<'p, T>(
    paths: impl IntoIterator<Item = &'p Path>,
    open: impl FnOnce() -> T,
) -> T {
    let paths: Vec<PathBuf> = paths.into_iter().map(Path::to_owned).collect();
    let (done, ended) = mpsc::channel::<()>();
    // Without this thread, only the report is missing.
    let _ = thread::Builder::new().spawn(move || {
        if ended.recv_timeout(REPORT_DELAY) == Err(mpsc::RecvTimeoutError::Timeout) {
            report(paths.iter().map(PathBuf::as_path));
        }
    });
    let opened = open();
    drop(done);
    opened
}

/// Reports that there is no reply about these disks or leases.
pub(crate) fn report<'p>(paths: impl IntoIterator<Item = &'p Path>) {
    // The reply may be late because the user is entering a password.
    if polkit_agent::is_running() || is_quiet() {
        return;
    }
    let names: Vec<String> = paths.into_iter().map(shown_path).collect();
    let seconds = REPORT_DELAY.as_secs();
    eprintln!(
        "vmlockctl: no answer about {} for {seconds} s; its file system may be frozen or busy \
         ('vmlockctl doctor' tells more); still waiting",
        names.join(", ")
    );
}

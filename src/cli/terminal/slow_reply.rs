//! Telling what a request waits for that the service does not answer.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::time::timeout;

use crate::cli::terminal::output::is_quiet;
use crate::cli::terminal::polkit_agent;
use crate::lock::printable::shown_path;

/// How long the service may take to answer before that is reported.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for an answer about these disks or leases; where it does not come, says once what is being
/// waited for. A request that hangs in the kernel can't be taken back, so the wait goes on.
pub(crate) async fn report_slow<T>(
    paths: impl IntoIterator<Item = &Path>,
    answer: impl Future<Output = T>,
) -> T {
    tokio::pin!(answer);
    if let Ok(answer) = timeout(PATIENCE, &mut answer).await {
        return answer;
    }
    report(paths);
    answer.await
}

/// Opens or reads files, in whatever time that takes, and says what it waits for as
/// [`report_slow`] does.
pub(crate) fn report_slow_files<'p, T>(
    paths: impl IntoIterator<Item = &'p Path>,
    open: impl FnOnce() -> T,
) -> T {
    let paths: Vec<PathBuf> = paths.into_iter().map(Path::to_owned).collect();
    let (done, ended) = mpsc::channel::<()>();
    // Without a thread it is only not reported.
    let _ = thread::Builder::new().spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            report(paths.iter().map(PathBuf::as_path));
        }
    });
    let opened = open();
    drop(done);
    opened
}

/// Says that there is no answer about these disks or leases.
pub(crate) fn report<'p>(paths: impl IntoIterator<Item = &'p Path>) {
    // The user may be typing a password, which takes its time.
    if polkit_agent::runs() || is_quiet() {
        return;
    }
    let names: Vec<String> = paths.into_iter().map(shown_path).collect();
    let seconds = PATIENCE.as_secs();
    eprintln!(
        "vmlockctl: no answer about {} for {seconds} s; its file system may be frozen or busy \
         ('vmlockctl doctor' tells more); still waiting",
        names.join(", ")
    );
}

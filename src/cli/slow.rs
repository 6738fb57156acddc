//! Telling what a request waits for that the service does not answer.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use crate::lock::printable::shown_path;

/// How long the service may take to answer before that is reported.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for an answer about these disks or leases; where it does not come, says once what is being
/// waited for. A request that hangs in the kernel can't be taken back, so the wait goes on.
pub(super) async fn report_slow<T>(
    paths: impl IntoIterator<Item = &Path>,
    answer: impl Future<Output = T>,
) -> T {
    tokio::pin!(answer);
    if let Ok(answer) = timeout(PATIENCE, &mut answer).await {
        return answer;
    }
    let names: Vec<String> = paths.into_iter().map(shown_path).collect();
    let seconds = PATIENCE.as_secs();
    eprintln!(
        "vmlockctl: no answer about {} for {seconds} s; its file system may not respond (frozen, or \
         kept busy by a scanner), 'vmlockctl doctor' tells more; waiting on",
        names.join(", ")
    );
    answer.await
}

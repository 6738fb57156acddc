//! The status of a wait: which disk is awaited, and which owner or program blocks it.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::cli::acquire::timer::WaitTimer;
use crate::cli::connection::ServiceConnection;
use crate::cli::format::wording::Wording;
use crate::cli::format::{holder, row};
use crate::cli::target::disk::Disk;
use crate::cli::target::disk_name::absolute;
use crate::cli::target::lookup;
use crate::cli::terminal::slow_reply;
use crate::cli::terminal::status_line::StatusLine;
use crate::client::{OwnerProxy, Row, lists};
use crate::lock::Mode;
use crate::lock::model::lease_name::spoken;
use crate::lock::text::escape::shown_path;

/// The time before the status of a wait is shown. A shorter wait is not reported.
pub(crate) const STATUS_DELAY: Duration = Duration::from_millis(200);
/// The interval between updates of the status.
pub(crate) const UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the status of a waiting request until the future is dropped.
pub(crate) async fn show_wait_status(
    service: &ServiceConnection,
    owner: &OwnerProxy<'_>,
    disks: &[Disk],
    timer: WaitTimer,
    line: &mut StatusLine,
) -> Infallible {
    sleep(STATUS_DELAY).await;
    // The reply may be late for other reasons: the user is entering a password, or storage is slow.
    let (asked, mut reported) = (Instant::now(), false);
    while (line.needs_update() || !reported) && !is_waiting(service, owner).await {
        if !reported && asked.elapsed() >= slow_reply::REPORT_DELAY {
            line.clear();
            slow_reply::report(disks.iter().map(|disk| disk.path.as_path()));
            reported = true;
        }
        sleep(UPDATE_INTERVAL).await;
    }
    while line.needs_update() {
        let wordings = describe_blocker(service, owner.inner().path(), disks).await;
        line.show(&wordings, &timer.elapsed());
        sleep(UPDATE_INTERVAL).await;
    }
    pending().await
}

/// Whether the service lists a waiting request of an owner.
async fn is_waiting(service: &ServiceConnection, owner: &OwnerProxy<'_>) -> bool {
    let Ok(manager) = service.manager().await else { return false };
    let filter = lists::path_option("owner", owner.inner().path());
    let rows = lists::waiting(&manager, filter).await.unwrap_or_default();
    rows.iter().any(|row| row::text(row, "owner") == owner.inner().path().as_str())
}

/// Describes the first disk that another owner or program holds, and its holder. If there is none,
/// earlier requests block this one; then describes the first of the disks, without a holder.
async fn describe_blocker(
    service: &ServiceConnection,
    owner: &str,
    disks: &[Disk],
) -> Vec<Wording> {
    let name = |disk: &Disk| absolute(&disk.path).map(|path| shown_path(&path)).unwrap_or_default();
    for disk in disks {
        let Ok(path) = absolute(&disk.path) else { continue };
        let holders = lookup::holders(service, &path).await.unwrap_or_default();
        let blocks = |holder: &&Row| {
            row::text(holder, "owner") != owner
                // Its lock is on a file that had the name before.
                && row::name_state_text(holder).is_none()
                // A process that only has the file open holds no lock.
                && row::text(holder, "kind") != "opener"
                && row::text(holder, "mode") != "none"
                && (disk.mode == Mode::Exclusive || row::text(holder, "mode") != "shared")
        };
        if let Some(holder) = holders.iter().find(blocks) {
            return wordings(&name(disk), Some(holder));
        }
    }
    disks.first().map_or_else(Vec::new, |disk| wordings(&name(disk), None))
}

/// Returns the wordings for a disk and its holder, from the longest to the shortest.
fn wordings(name: &str, holder: Option<&Row>) -> Vec<Wording> {
    let resource = spoken(name);
    let (kind, path) = resource.split_once(' ').unwrap_or(("disk", name));
    let full = format!("waiting for {kind} ");
    let Some(holder) = holder else { return vec![Wording::new(&full, path, "")] };
    let (short, phrase) = (holder::short_name(holder), holder::mode_phrase(holder));
    let lock = holder::describe_lock(name, holder, holder::Detail::Brief);
    let short_phrase = phrase.replace(" exclusively", "").replace(" in shared mode", "");
    vec![
        Wording::new(&full, path, &format!(": {lock}")),
        Wording::new(&full, path, &format!(": {phrase} {short}")),
        Wording::new("waiting for ", path, &format!(": {short_phrase} {short}")),
        Wording::new(&format!("waiting for {short} ("), path, ")"),
        Wording::new(&format!("waiting for {short}"), "", ""),
    ]
}

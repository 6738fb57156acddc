//! Waiting for disks that others hold.
//!
//! 1. The owner is there already, with a lifeline of ours: it outlives the service, and so whatever
//!    becomes of a question, the same can be asked again. What was granted meanwhile is answered
//!    with the locks that are there.
//! 2. The service is asked, and has us wait. Where it says that we do, the person is told for whom.
//! 3. A disk that was shown by descriptor may lose its name to another file meanwhile. Then the
//!    request is withdrawn, and the file that has the name now is asked for. Names that the service
//!    looks up itself it follows itself.
//! 4. A service that ends or is replaced knows nothing of its waiters afterwards. They ask again
//!    once there is one on the bus, for the time that is left.
//!
//! Whoever leaves the bus waits for nothing any more, so there is nothing to withdraw at the end.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use zbus::fdo::DBusProxy;
use zbus::names::{BusName, OwnedUniqueName};

use crate::cli::acquire::open::{Opening, ask_for};
use crate::cli::commands::who;
use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::format::duration::{Span, told};
use crate::cli::format::row;
use crate::cli::format::wording::Wording;
use crate::cli::target::disk::{Disk, Opened, Wanted, absolute};
use crate::cli::target::lookup;
use crate::cli::terminal::slow_reply;
use crate::cli::terminal::status_line::Line;
use crate::client::{Options, OwnerProxy, Row, SERVICE, lists};
use crate::lock::Mode;
use crate::lock::lease::spoken;
use crate::lock::printable::shown_path;

/// When it is first looked whether we wait: what is granted sooner is not worth a word.
const FIRST: Duration = Duration::from_millis(200);
/// How often what is said of it is brought up to date.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is checked whether names still lead to the files that were opened by them.
const CHECK: Duration = Duration::from_secs(2);
/// How often in a row a name is followed that leads to another file by the time it is locked.
const RENEWALS: usize = 8;
/// How long a service that says that it ends has to leave the bus, before it is asked again.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long to wait.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Wait {
    /// Wait until all disks can be locked, for DURATION ('90s', '2h 30min') or without limit
    #[arg(
        long = "wait",
        value_name = "DURATION",
        value_parser = Span::parse,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "infinity"
    )]
    span: Option<Span>,
}

impl Wait {
    /// How long, if at all.
    pub(crate) fn span(self) -> Option<Span> {
        self.span.filter(|span| *span != Span::For(Duration::ZERO))
    }
}

/// A wait that has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) at: Instant,
    pub(crate) span: Span,
}

impl Begun {
    /// What is left of it; `None`: it has no end.
    fn left(self) -> Option<Duration> {
        match self.span {
            Span::For(span) => Some(span.saturating_sub(self.at.elapsed())),
            Span::Ever => None,
        }
    }

    pub(crate) fn is_over(self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// Returns the options of a request that waits for what is left.
    pub(crate) fn options(self) -> Options<'static> {
        let micros = |left: Duration| u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        Options::from([match self.left() {
            Some(left) => ("timeout-usec", micros(left).into()),
            None => ("no-timeout", true.into()),
        }])
    }
}

/// Locks disks for an owner, and waits for those that others hold.
pub(crate) async fn lock(
    link: &Link,
    owner: &OwnerProxy<'_>,
    opening: &Opening<'_>,
    mut wanted: Wanted,
    span: Span,
) -> Result<(), Error> {
    let begun = Begun { at: Instant::now(), span };
    let mut line = Line::new();
    let mut renewals = 0;
    loop {
        let asked = unique_name(link).await;
        let begun_asking = Instant::now();
        let (answer, withdrawn) = ask(link, owner, opening, &wanted, begun, &mut line).await;
        if begun_asking.elapsed() > CHECK {
            renewals = 0;
        }
        match answer {
            Err(error)
                if (error.is_change() || (withdrawn && error.is_cancelled()))
                    && !begun.is_over()
                    && renewals < RENEWALS =>
            {
                renewals += 1;
                wanted = opening.wanted(link)?;
            }
            Err(error) if link.show_files_after(&error) => wanted = opening.wanted(link)?,
            Err(error) if error.is_end_of_service() && !begun.is_over() => {
                if !return_of_service(link, owner, asked, begun, &mut line).await? {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}

/// Asks the service once. Returns its answer, and whether the request was withdrawn since the name of
/// a file that it shows leads elsewhere.
async fn ask(
    link: &Link,
    owner: &OwnerProxy<'_>,
    opening: &Opening<'_>,
    wanted: &Wanted,
    begun: Begun,
    line: &mut Line,
) -> (Result<(), Error>, bool) {
    let mut answer = pin!(ask_for(link, owner, wanted, begun.options()));
    tokio::select! {
        answer = &mut answer => return (answer, false),
        () = replaced(wanted) => {}
        never = tell(link, owner, opening.disks, begun, line) => match never {},
    }
    // Should it have been granted in this moment, that is the answer.
    let _ = owner.cancel(Options::new()).await;
    (answer.await, true)
}

/// Returns once the name of a file that is shown leads to another one, or to none.
async fn replaced(wanted: &Wanted) {
    while !wanted.opened.is_empty() {
        sleep(CHECK).await;
        let opened = wanted.opened.clone();
        let (said, heard) = oneshot::channel();
        // A thread of its own, which nobody waits for at the end: storage may not answer.
        let check = move || {
            let _ = said.send(opened.iter().any(Opened::is_replaced));
        };
        if thread::Builder::new().spawn(check).is_ok() && heard.await == Ok(true) {
            return;
        }
    }
    pending::<()>().await;
}

/// Who the service is on the bus.
pub(crate) async fn unique_name(link: &Link) -> Option<OwnedUniqueName> {
    let bus = DBusProxy::new(link.bus().await.ok()?).await.ok()?;
    bus.get_name_owner(BusName::try_from(SERVICE).ok()?).await.ok()
}

/// Returns once the service can be asked again; whether that was in time.
pub(crate) async fn return_of_service(
    link: &Link,
    owner: &OwnerProxy<'_>,
    asked: Option<OwnedUniqueName>,
    begun: Begun,
    line: &mut Line,
) -> Result<bool, Error> {
    let bus = DBusProxy::new(link.bus().await?).await?;
    let mut changes = bus.receive_name_owner_changed_with_args(&[(0, SERVICE)]).await?;
    let returns = async {
        if asked.is_some() && unique_name(link).await == asked {
            // It is about to leave, or could not be replaced and goes on.
            let _ = timeout(PATIENCE, changes.next()).await;
        }
        let mut now = unique_name(link).await;
        while now.is_none() {
            changes.next().await.ok_or(Error::Lost)?;
            now = unique_name(link).await;
        }
        if now == asked {
            // Was it the bus that lost patience, our request still stands in line.
            let _ = owner.cancel(Options::new()).await;
        }
        Ok(())
    };
    let away = async {
        loop {
            let what = Wording::new("waiting for vmlockd, which has left the bus", "", "");
            line.say(&[what], &stand(begun));
            if !line.wants_more() {
                pending::<()>().await;
            }
            sleep(EVERY).await;
        }
    };
    let over = async {
        match begun.left() {
            Some(left) => sleep(left).await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        returned = returns => returned.map(|()| true),
        () = over => Ok(false),
        () = async { sleep(FIRST).await; away.await } => Ok(false),
    }
}

/// Tells the person for whom we wait, while we do.
pub(crate) async fn tell(
    link: &Link,
    owner: &OwnerProxy<'_>,
    disks: &[Disk],
    begun: Begun,
    line: &mut Line,
) -> Infallible {
    sleep(FIRST).await;
    // The answer may be late for other reasons: somebody is asked for a password, storage is slow.
    let (asked, mut reported) = (Instant::now(), false);
    while (line.wants_more() || !reported) && !waits(link, owner).await {
        if !reported && asked.elapsed() >= slow_reply::PATIENCE {
            line.clear();
            slow_reply::report(disks.iter().map(|disk| disk.path.as_path()));
            reported = true;
        }
        sleep(EVERY).await;
    }
    while line.wants_more() {
        let wordings = held_up(link, owner.inner().path(), disks).await;
        line.say(&wordings, &stand(begun));
        sleep(EVERY).await;
    }
    pending().await
}

fn stand(begun: Begun) -> String {
    format!(" — {}", told(begun.at.elapsed()))
}

async fn waits(link: &Link, owner: &OwnerProxy<'_>) -> bool {
    let Ok(manager) = link.manager().await else { return false };
    let filter = lists::path_option("owner", owner.inner().path());
    let rows = lists::waiting(&manager, filter).await.unwrap_or_default();
    rows.iter().any(|row| row::text(row, "owner") == owner.inner().path().as_str())
}

/// The first disk that another owner or program holds, and its holder; the first of all disks where the
/// requests of others come first and nothing else is in the way.
async fn held_up(link: &Link, owner: &str, disks: &[Disk]) -> Vec<Wording> {
    let name = |disk: &Disk| absolute(&disk.path).map(|path| shown_path(&path)).unwrap_or_default();
    for disk in disks {
        let Ok(path) = absolute(&disk.path) else { continue };
        let holders = lookup::holders(link, &path).await.unwrap_or_default();
        let hinders = |holder: &&Row| {
            row::text(holder, "owner") != owner
                // It holds a file that had the name before.
                && row::name_state(holder).is_none()
                // Who merely has it open is in nobody's way.
                && row::text(holder, "kind") != "opener"
                && row::text(holder, "mode") != "none"
                && (disk.mode == Mode::Exclusive || row::text(holder, "mode") != "shared")
        };
        if let Some(holder) = holders.iter().find(hinders) {
            return wordings(&name(disk), Some(holder));
        }
    }
    disks.first().map_or_else(Vec::new, |disk| wordings(&name(disk), None))
}

/// What is said of a disk and its holder, from all that is known to its name alone.
fn wordings(name: &str, holder: Option<&Row>) -> Vec<Wording> {
    let resource = spoken(name);
    let (kind, path) = resource.split_once(' ').unwrap_or(("disk", name));
    let full = format!("waiting for {kind} ");
    let Some(holder) = holder else { return vec![Wording::new(&full, path, "")] };
    let (short, how) = (who::short_name(holder), who::how(holder));
    let held = who::held(name, holder, who::Detail::Brief);
    let how_short = how.replace(" exclusively", "").replace(" in shared mode", "");
    vec![
        Wording::new(&full, path, &format!(": {held}")),
        Wording::new(&full, path, &format!(": {how} {short}")),
        Wording::new("waiting for ", path, &format!(": {how_short} {short}")),
        Wording::new(&format!("waiting for {short} ("), path, ")"),
        Wording::new(&format!("waiting for {short}"), "", ""),
    ]
}

#[cfg(test)]
mod tests {
    use zbus::Variant;

    use super::*;

    #[test]
    fn what_is_left_is_what_the_service_is_told() {
        let at = Instant::now();
        let timeout = |begun: Begun| match begun.options().get("timeout-usec") {
            Some(Variant::U64(micros)) => *micros,
            other => panic!("{other:?}"),
        };
        let ever = Begun { at, span: Span::Ever }.options();
        assert_eq!(ever, Options::from([("no-timeout", true.into())]));
        let hour = Begun { at, span: Span::For(Duration::from_secs(3600)) };
        assert!((3_500_000_000..=3_600_000_000).contains(&timeout(hour)) && !hour.is_over());
        let none = Begun { at, span: Span::For(Duration::ZERO) };
        assert!(none.is_over() && timeout(none) == 0);
        assert_eq!(Wait { span: Some(none.span) }.span(), None);
    }
}

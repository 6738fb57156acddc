//! Waiting for disks that others hold.
//!
//! 1. The owner is there already, with a lease of ours: it outlives the service, and so whatever
//!    becomes of a question, the same can be asked again. What was granted meanwhile is answered
//!    with the locks that are there.
//! 2. The service is asked, and has us wait. Where it says that we do, the person is told for whom.
//! 3. A service that ends or is replaced knows nothing of its waiters afterwards. They ask again
//!    once there is one on the bus, for the time that is left.
//!
//! Whoever leaves the bus waits for nothing any more, so there is nothing to withdraw at the end.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};
use zbus::fdo::DBusProxy;
use zbus::names::{BusName, OwnedUniqueName};

use super::disks::{Disk, Wanted, absolute};
use super::error::Error;
use super::line::Line;
use super::link::Link;
use super::open::ask_for;
use super::span::{Span, told};
use super::{find, row, who};
use crate::client::{Options, OwnerProxy, Row, SERVICE};
use crate::lock::Mode;
use crate::lock::lease::spoken;
use crate::lock::printable::shown_path;

/// When it is first looked whether we wait: what is granted sooner is not worth a word.
const FIRST: Duration = Duration::from_millis(200);
/// How often what is said of it is brought up to date.
const EVERY: Duration = Duration::from_secs(1);
/// How long a service that says that it ends has to leave the bus, before it is asked again.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long to wait.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Wait {
    /// Wait for what others hold: for ever, or for so long, as in '90s' or '2h 30min'
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
    pub(super) fn span(self) -> Option<Span> {
        self.span.filter(|span| *span != Span::For(Duration::ZERO))
    }
}

/// A wait that has begun.
#[derive(Debug, Clone, Copy)]
struct Begun {
    at: Instant,
    span: Span,
}

impl Begun {
    /// What is left of it; `None`: it has no end.
    fn left(self) -> Option<Duration> {
        match self.span {
            Span::For(span) => Some(span.saturating_sub(self.at.elapsed())),
            Span::Ever => None,
        }
    }

    fn is_over(self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// The same as the service is told it.
    fn timeout(self) -> u64 {
        self.left().map_or(u64::MAX, |left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Locks disks for an owner, and waits for those that others hold.
pub(super) async fn lock(
    link: &Link,
    owner: &OwnerProxy<'_>,
    disks: &[Disk],
    wanted: &Wanted,
    span: Span,
) -> Result<(), Error> {
    let begun = Begun { at: Instant::now(), span };
    let mut line = Line::new();
    loop {
        let asked = unique_name(link).await;
        let options = Options::from([("timeout-usec", begun.timeout().into())]);
        let answer = tokio::select! {
            answer = ask_for(link, owner, wanted, options) => answer,
            never = tell(link, owner, disks, begun, &mut line) => match never {},
        };
        match answer {
            Err(error) if error.is_end_of_service() && !begun.is_over() => {
                if !return_of_service(link, owner, asked, begun, &mut line).await? {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}

/// Who the service is on the bus.
async fn unique_name(link: &Link) -> Option<OwnedUniqueName> {
    let bus = DBusProxy::new(&link.connection).await.ok()?;
    bus.get_name_owner(BusName::try_from(SERVICE).ok()?).await.ok()
}

/// Returns once the service can be asked again; whether that was in time.
async fn return_of_service(
    link: &Link,
    owner: &OwnerProxy<'_>,
    asked: Option<OwnedUniqueName>,
    begun: Begun,
    line: &mut Line,
) -> Result<bool, Error> {
    let bus = DBusProxy::new(&link.connection).await?;
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
            line.say("waiting for vmlockd, which has left the bus", &stand(begun));
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
async fn tell(
    link: &Link,
    owner: &OwnerProxy<'_>,
    disks: &[Disk],
    begun: Begun,
    line: &mut Line,
) -> Infallible {
    sleep(FIRST).await;
    // The answer may be late for other reasons: somebody is asked for a password, storage is slow.
    while line.wants_more() && !waits(link, owner).await {
        sleep(EVERY).await;
    }
    while line.wants_more() {
        let whom = held_up(link, owner.inner().path(), disks).await;
        line.say(&format!("waiting for {whom}"), &stand(begun));
        sleep(EVERY).await;
    }
    pending().await
}

fn stand(begun: Begun) -> String {
    format!(" — {}", told(begun.at.elapsed()))
}

async fn waits(link: &Link, owner: &OwnerProxy<'_>) -> bool {
    let Ok(manager) = link.manager().await else { return false };
    let rows = manager.list_waiting(Options::new()).await.unwrap_or_default();
    rows.iter().any(|row| row::text(row, "owner") == owner.inner().path().as_str())
}

/// The first disk that somebody else holds, and who he is; the first of all where all are waited
/// for by others only, who came before us.
async fn held_up(link: &Link, owner: &str, disks: &[Disk]) -> String {
    let name = |disk: &Disk| absolute(&disk.path).map(|path| shown_path(&path)).unwrap_or_default();
    for disk in disks {
        let Ok(path) = absolute(&disk.path) else { continue };
        let holders = find::holders(link, &path).await.unwrap_or_default();
        let hinders = |holder: &&Row| {
            row::text(holder, "owner") != owner
                // Who merely has it open is in nobody's way.
                && row::text(holder, "kind") != "user"
                && row::text(holder, "mode") != "none"
                && (disk.mode == Mode::Exclusive || row::text(holder, "mode") != "shared")
        };
        if let Some(holder) = holders.iter().find(hinders) {
            let name = name(disk);
            let held = who::held(&name, holder, who::Detail::Brief);
            return format!("{}: {held}", spoken(&name));
        }
    }
    disks.first().map_or_else(|| "disks".to_owned(), |disk| spoken(&name(disk)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_the_service_is_told() {
        let at = Instant::now();
        assert_eq!(Begun { at, span: Span::Ever }.timeout(), u64::MAX);
        let hour = Begun { at, span: Span::For(Duration::from_secs(3600)) };
        assert!((3_500_000_000..=3_600_000_000).contains(&hour.timeout()) && !hour.is_over());
        let none = Begun { at, span: Span::For(Duration::ZERO) };
        assert!(none.is_over() && none.timeout() == 0);
        assert_eq!(Wait { span: Some(none.span) }.span(), None);
    }
}

//! Rate limit of messages, for each user.
//!
//! Any user can open and close owners, or cause refusals, hundreds of times a second, and so push the
//! entries of all services out of the journal. So the number of messages about a user's requests is
//! limited in each minute; suppressed messages are counted, and the count is logged when the minute
//! is over. Messages about root's VMs, including libvirt's, are never suppressed, nor is any kind of
//! message that is not in [`LIMITED`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use crate::catalog::Kind;

/// The number of messages about one user that are logged in a window.
const LINES: usize = 120;
/// The length of a window.
const WINDOW: Duration = Duration::from_secs(60);

/// Events that any user can cause without bound.
const LIMITED: &[Kind] = &[
    Kind::OwnerOpened,
    Kind::OwnerEnded,
    Kind::Acquired,
    Kind::Converted,
    Kind::Released,
    Kind::HandedOver,
    Kind::Refused,
    Kind::Waiting,
    Kind::WaitEnded,
    Kind::Suspended,
    Kind::Resumed,
    Kind::Denied,
];

/// Whether a message is logged.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Logged,
    /// It is suppressed. The first one comes with the time after which [`Windows::end`] must be
    /// called.
    LeftOut(Option<Duration>),
}

/// The windows of all users. Reads no clock; the time is passed in.
#[derive(Debug, Default)]
struct Windows(HashMap<u32, Window>);

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: usize,
    left_out: usize,
}

impl Windows {
    /// Counts a message about a request of the user `uid`.
    fn count(&mut self, uid: u32, now: Instant) -> Verdict {
        let is_over = |window: &Window| now.saturating_duration_since(window.since) >= WINDOW;
        // A window with suppressed messages stays until their number is logged.
        self.0.retain(|_, window| window.left_out > 0 || !is_over(window));
        let window = self.0.entry(uid).or_insert(Window { since: now, lines: 0, left_out: 0 });
        if is_over(window) {
            (window.since, window.lines) = (now, 0);
        }
        if window.lines < LINES {
            window.lines += 1;
            return Verdict::Logged;
        }
        window.left_out += 1;
        let rest = WINDOW.saturating_sub(now.saturating_duration_since(window.since));
        Verdict::LeftOut((window.left_out == 1).then_some(rest))
    }

    /// Ends a window, and returns the number of suppressed messages.
    fn end(&mut self, uid: u32) -> usize {
        self.0.remove(&uid).map_or(0, |window| window.left_out)
    }
}

/// A filter that applies the limit.
#[derive(Debug, Clone, Default)]
pub(super) struct PerUser {
    windows: Arc<Mutex<Windows>>,
    /// Whether no message is suppressed.
    is_off: bool,
}

impl PerUser {
    /// Returns a filter for a service of several users, or one that suppresses nothing.
    pub(super) fn new(several_users: bool) -> Self {
        Self { windows: Arc::default(), is_off: !several_users }
    }

    fn is_logged(&self, uid: u32) -> bool {
        let windows = || self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = windows().count(uid, Instant::now());
        if let Verdict::LeftOut(Some(rest)) = verdict
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let windows = Arc::clone(&self.windows);
            runtime.spawn(async move {
                tokio::time::sleep(rest).await;
                let left_out = windows.lock().unwrap_or_else(PoisonError::into_inner).end(uid);
                tracing::info!(owner.uid = uid, "{left_out} messages about uid {uid} suppressed");
            });
        }
        verdict == Verdict::Logged
    }
}

impl<S: Subscriber> Filter<S> for PerUser {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let mut of = Origin::default();
        if !self.is_off {
            event.record(&mut of);
        }
        match of {
            Origin { is_limited: true, caller, owner } => {
                caller.or(owner).is_none_or(|uid| uid == 0 || self.is_logged(uid))
            }
            Origin { is_limited: false, .. } => true,
        }
    }
}

/// The subject of a message.
#[derive(Debug, Default)]
struct Origin {
    is_limited: bool,
    caller: Option<u32>,
    owner: Option<u32>,
}

impl Visit for Origin {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            self.is_limited = LIMITED.iter().any(|kind| kind.as_str() == value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "caller.uid" => self.caller = u32::try_from(value).ok(),
            "owner.uid" => self.owner = u32::try_from(value).ok(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_user_are_limited_in_each_window_and_the_rest_is_counted() {
        let (mut windows, start) = (Windows::default(), Instant::now());
        for _ in 0..LINES {
            assert_eq!(windows.count(1, start), Verdict::Logged);
        }
        let later = start + Duration::from_secs(20);
        let rest = Duration::from_secs(40);
        assert_eq!(windows.count(1, later), Verdict::LeftOut(Some(rest)));
        assert_eq!(windows.count(1, later), Verdict::LeftOut(None));
        assert_eq!(windows.count(2, later), Verdict::Logged, "another user has its own");
        assert_eq!(windows.end(1), 2);
        assert_eq!(windows.end(1), 0);
        assert_eq!(windows.count(1, start + WINDOW), Verdict::Logged);
    }

    #[test]
    fn a_new_window_begins_by_itself_and_users_are_forgotten() {
        let (mut windows, start) = (Windows::default(), Instant::now());
        for _ in 0..=LINES {
            windows.count(1, start);
        }
        windows.count(2, start);
        let next = start + WINDOW;
        assert_eq!(windows.count(1, next), Verdict::Logged);
        assert_eq!(windows.0.len(), 1);
        assert_eq!(windows.end(1), 1, "what was left out is not lost");
    }

    #[test]
    fn only_what_any_user_can_cause_is_limited_and_never_for_root() {
        use tracing_subscriber::layer::SubscriberExt as _;
        use tracing_subscriber::{Layer as _, Registry};

        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let output = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let log = Registry::default().with(output.with_filter(PerUser::new(true)));
        tracing::subscriber::with_default(log, || {
            for _ in 0..LINES + 10 {
                tracing::info!(event = Kind::Refused.as_str(), owner.uid = 7_u32, "user's");
                tracing::info!(event = Kind::Refused.as_str(), owner.uid = 0_u32, "root's");
                tracing::error!(event = Kind::Lost.as_str(), owner.uid = 7_u32, "lost");
                tracing::info!(
                    event = Kind::Denied.as_str(),
                    owner.uid = 0_u32,
                    caller.uid = 8_u32,
                    "denied"
                );
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let count = |word| text.lines().filter(|line| line.contains(word)).count();
        assert_eq!(["user's", "root's", "lost", "denied"].map(count), [120, 130, 130, 120]);
    }
}

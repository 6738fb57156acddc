//! A rate limit of log messages, per user.
//!
//! Any user can open and close owners, or cause refusals, hundreds of times a second. Without a limit,
//! these messages would push the entries of all services out of the journal. The number of messages
//! about a user's requests is limited per minute; suppressed messages are counted, and their number is
//! logged at the end of the minute. Messages about root's VMs, including libvirt's, are never
//! suppressed, and neither are events that are not in [`LIMITED`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use crate::catalog::LogEvent;
use crate::sync;

/// The number of messages about one user that are logged in a window.
const MAX_MESSAGES: usize = 120;
/// The length of a window.
const WINDOW: Duration = Duration::from_secs(60);

/// Events that any user can cause without bound.
const LIMITED: &[LogEvent] = &[
    LogEvent::OwnerOpened,
    LogEvent::OwnerEnded,
    LogEvent::Acquired,
    LogEvent::Converted,
    LogEvent::Released,
    LogEvent::HandedOver,
    LogEvent::Refused,
    LogEvent::Waiting,
    LogEvent::WaitEnded,
    LogEvent::Suspended,
    LogEvent::Resumed,
    LogEvent::Denied,
];

/// Whether a message is logged.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Log,
    /// The first suppressed message has the time after which [`Windows::end`] must be called.
    Suppress(Option<Duration>),
}

/// The windows of all users. Reads no clock: callers pass the time.
#[derive(Debug, Default)]
struct Windows(HashMap<u32, Window>);

#[derive(Debug)]
struct Window {
    since: Instant,
    messages: usize,
    suppressed: usize,
}

impl Windows {
    /// Counts a message about a request of the user `uid`.
    fn count(&mut self, uid: u32, now: Instant) -> Decision {
        let is_over = |window: &Window| now.saturating_duration_since(window.since) >= WINDOW;
        // A window with suppressed messages stays until their number is logged.
        self.0.retain(|_, window| window.suppressed > 0 || !is_over(window));
        let window = self.0.entry(uid).or_insert(Window { since: now, messages: 0, suppressed: 0 });
        if is_over(window) {
            (window.since, window.messages) = (now, 0);
        }
        if window.messages < MAX_MESSAGES {
            window.messages += 1;
            return Decision::Log;
        }
        window.suppressed += 1;
        let rest = WINDOW.saturating_sub(now.saturating_duration_since(window.since));
        Decision::Suppress((window.suppressed == 1).then_some(rest))
    }

    /// Ends a window, and returns the number of suppressed messages.
    fn end(&mut self, uid: u32) -> usize {
        self.0.remove(&uid).map_or(0, |window| window.suppressed)
    }
}

/// A filter that applies the rate limit.
#[derive(Debug, Clone, Default)]
pub(super) struct RateLimit {
    windows: Arc<Mutex<Windows>>,
    /// Whether no message is suppressed.
    is_off: bool,
}

impl RateLimit {
    /// Returns a filter for a service of several users, or one that suppresses nothing.
    pub(super) fn new(several_users: bool) -> Self {
        Self { windows: Arc::default(), is_off: !several_users }
    }

    fn is_logged(&self, uid: u32) -> bool {
        let windows = || sync::lock(&self.windows);
        let decision = windows().count(uid, Instant::now());
        if let Decision::Suppress(Some(rest)) = decision
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let windows = Arc::clone(&self.windows);
            runtime.spawn(async move {
                tokio::time::sleep(rest).await;
                let suppressed = sync::lock(&windows).end(uid);
                tracing::info!(owner.uid = uid, "{suppressed} messages about uid {uid} suppressed");
            });
        }
        decision == Decision::Log
    }
}

impl<S: Subscriber> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let mut subject = Subject::default();
        if !self.is_off {
            event.record(&mut subject);
        }
        match subject {
            Subject { is_limited: true, caller, owner } => {
                caller.or(owner).is_none_or(|uid| uid == 0 || self.is_logged(uid))
            }
            Subject { is_limited: false, .. } => true,
        }
    }
}

/// The subject of a message.
#[derive(Debug, Default)]
struct Subject {
    is_limited: bool,
    caller: Option<u32>,
    owner: Option<u32>,
}

impl Visit for Subject {
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
    fn messages_of_a_user_are_limited_in_each_window_and_the_rest_is_counted() {
        let (mut windows, start) = (Windows::default(), Instant::now());
        for _ in 0..MAX_MESSAGES {
            assert_eq!(windows.count(1, start), Decision::Log);
        }
        let later = start + Duration::from_secs(20);
        let rest = Duration::from_secs(40);
        assert_eq!(windows.count(1, later), Decision::Suppress(Some(rest)));
        assert_eq!(windows.count(1, later), Decision::Suppress(None));
        assert_eq!(windows.count(2, later), Decision::Log, "another user has its own");
        assert_eq!(windows.end(1), 2);
        assert_eq!(windows.end(1), 0);
        assert_eq!(windows.count(1, start + WINDOW), Decision::Log);
    }

    #[test]
    fn a_window_that_is_over_is_replaced_or_removed() {
        let (mut windows, start) = (Windows::default(), Instant::now());
        for _ in 0..=MAX_MESSAGES {
            windows.count(1, start);
        }
        windows.count(2, start);
        let next = start + WINDOW;
        assert_eq!(windows.count(1, next), Decision::Log);
        assert_eq!(windows.0.len(), 1);
        assert_eq!(windows.end(1), 1, "the suppressed message is counted");
    }

    #[test]
    fn only_limited_events_are_suppressed_and_never_for_root() {
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
        let log = Registry::default().with(output.with_filter(RateLimit::new(true)));
        tracing::subscriber::with_default(log, || {
            for _ in 0..MAX_MESSAGES + 10 {
                tracing::info!(event = LogEvent::Refused.as_str(), owner.uid = 7_u32, "user's");
                tracing::info!(event = LogEvent::Refused.as_str(), owner.uid = 0_u32, "root's");
                tracing::error!(event = LogEvent::Lost.as_str(), owner.uid = 7_u32, "lost");
                tracing::info!(
                    event = LogEvent::Denied.as_str(),
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

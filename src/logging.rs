//! The log: the journal if standard error is connected to it, standard error otherwise. Neither of
//! them blocks the service: a thread of its own writes the lines, from a bounded queue
//! (`logging/queue.rs`).
//!
//! Lines on standard error begin with the time (UTC, RFC 3339), unless the service manager adds it.
//!
//! Levels have syslog's names, as systemd's `LogControl1` and `journalctl -p` use them.

mod batch;
mod cause;
mod console;
mod journal;
mod journal_sender;
mod queue;
mod rate_limit;
mod stderr;

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

use journal::JournalLayer;
use journal_sender::JournalSender;
use rate_limit::RateLimit;
use stderr::Stderr;

use crate::sync;

/// The least severe messages that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Failures.
    Err,
    /// Possible problems, such as locks released by force.
    Warning,
    /// Equivalent to `Warning`, since no message has this level.
    Notice,
    /// Owners, locks, refusals.
    Info,
    /// All messages.
    Debug,
}

impl Level {
    /// Returns syslog's name of the level.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Err => "err",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Err => LevelFilter::ERROR,
            Self::Warning | Self::Notice => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            // No message is more severe than an error.
            "emerg" | "alert" | "crit" | "err" => Ok(Self::Err),
            "warning" => Ok(Self::Warning),
            "notice" => Ok(Self::Notice),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            _ => {
                let word = crate::lock::text::escape::shown(word);
                Err(format!("'{word}' is not a log level (err, warning, notice, info, debug)"))
            }
        }
    }
}

/// A handle on the log.
#[derive(Debug, Clone)]
pub struct Log {
    level: Arc<Mutex<Level>>,
    filter: reload::Handle<LevelFilter, Registry>,
    output: Output,
}

/// The output of the log, with its queue of messages.
#[derive(Debug, Clone)]
enum Output {
    Journal(JournalSender),
    Stderr(Stderr),
}

impl Log {
    /// Opens the log. If the service has several users, the rate of messages about each is limited.
    ///
    /// # Errors
    ///
    /// A message if the log of this process is open, or the thread that writes cannot be started.
    pub fn open(level: Level, several_users: bool) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::new(level.filter());
        let in_journal = in_journal();
        // Without its socket, the stream on standard error is used.
        let journal = in_journal.then(JournalLayer::open).and_then(Result::ok);
        let (output, layer): (Output, Box<dyn Layer<Registry> + Send + Sync>);
        if let Some(journal) = journal {
            (output, layer) = (Output::Journal(journal.sender()), Box::new(journal));
        } else {
            let has_timestamp = !in_journal;
            let stderr = Stderr::open(has_timestamp);
            let stderr = stderr.map_err(|error| format!("cannot open the log: {error}"))?;
            layer = console::layer(stderr.clone(), has_timestamp, std::io::stderr().is_terminal());
            output = Output::Stderr(stderr);
        }
        let filter = filter.and(RateLimit::new(several_users));
        let opened = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
        opened.map_err(|error| format!("cannot open the log: {error}"))?;
        Ok(Self { level: Arc::new(Mutex::new(level)), filter: handle, output })
    }

    /// Waits a short time until all queued lines are written, before the process ends or executes
    /// another program.
    pub fn flush(&self) {
        match &self.output {
            Output::Journal(sender) => sender.flush(),
            Output::Stderr(stderr) => stderr.flush(),
        }
    }

    /// Returns the current level.
    #[must_use]
    pub fn level(&self) -> Level {
        *sync::lock(&self.level)
    }

    /// Sets the level.
    ///
    /// # Errors
    ///
    /// Only if the log has been closed.
    pub fn set_level(&self, level: Level) -> Result<(), String> {
        let mut current = sync::lock(&self.level);
        self.filter.reload(level.filter()).map_err(|error| error.to_string())?;
        *current = level;
        Ok(())
    }

    /// Returns the name of the output: `journal` or `console`.
    #[must_use]
    pub fn target(&self) -> &'static str {
        match self.output {
            Output::Journal(_) => "journal",
            Output::Stderr(_) => "console",
        }
    }
}

/// Flushes the log on drop, so that an error after the start, or a panic, loses no line.
#[derive(Debug)]
pub struct FlushOnDrop<'l>(pub &'l Log);

impl Drop for FlushOnDrop<'_> {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Whether standard error is connected to the journal (systemd.exec(5), `$JOURNAL_STREAM`). If it is,
/// entries are sent to the journal directly, with their fields.
fn in_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

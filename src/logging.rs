//! The log: the journal if standard error is connected to it, standard error otherwise. Neither of
//! them blocks the service.
//!
//! Lines on standard error begin with the time, in UTC as RFC 3339 has it, unless the service manager
//! adds one.
//!
//! Levels bear syslog's names, as systemd's `LogControl1` and users of `journalctl -p` expect.

mod cause;
mod console;
mod journal;
mod limit;
mod post;
mod stderr;

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

use journal::Journal;
use limit::PerUser;
use post::Post;
use stderr::Stderr;

/// The least severe messages that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Failures.
    Err,
    /// What may be wrong, such as locks released by force.
    Warning,
    /// The same as `Warning`: nothing is logged at this level.
    Notice,
    /// Owners, locks, refusals.
    Info,
    /// All messages.
    Debug,
}

impl Level {
    /// Returns syslog's word.
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
            // More severe than anything we log.
            "emerg" | "alert" | "crit" | "err" => Ok(Self::Err),
            "warning" => Ok(Self::Warning),
            "notice" => Ok(Self::Notice),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            _ => {
                let word = crate::lock::printable::shown(word);
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

/// The queue of messages that are not written yet.
#[derive(Debug, Clone)]
enum Output {
    Journal(Post),
    Stderr(Stderr),
}

impl Log {
    /// Starts to log. If several users are served, the number of messages of each is limited.
    ///
    /// # Errors
    ///
    /// A message if this process logs already, or cannot start the thread that writes.
    pub fn begin(level: Level, several_users: bool) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::new(level.filter());
        let in_journal = in_journal();
        // Its stream is used where its socket is missing.
        let journal = in_journal.then(Journal::open).and_then(Result::ok);
        let (output, layer): (Output, Box<dyn Layer<Registry> + Send + Sync>);
        if let Some(journal) = journal {
            (output, layer) = (Output::Journal(journal.post()), Box::new(journal));
        } else {
            let stamped = !in_journal;
            let stderr = Stderr::open(stamped);
            let stderr = stderr.map_err(|error| format!("cannot open the log: {error}"))?;
            layer = console::layer(stderr.clone(), stamped, std::io::stderr().is_terminal());
            output = Output::Stderr(stderr);
        }
        let filter = filter.and(PerUser::new(several_users));
        let begun = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
        begun.map_err(|error| format!("cannot open the log: {error}"))?;
        Ok(Self { level: Arc::new(Mutex::new(level)), filter: handle, output })
    }

    /// Waits a short time until all messages are written, before the process ends.
    pub fn finish(&self) {
        match &self.output {
            Output::Journal(post) => post.finish(),
            Output::Stderr(stderr) => stderr.finish(),
        }
    }

    /// Returns the level in force.
    #[must_use]
    pub fn level(&self) -> Level {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the level.
    ///
    /// # Errors
    ///
    /// Only if the log has ended.
    pub fn set_level(&self, level: Level) -> Result<(), String> {
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.filter.reload(level.filter()).map_err(|error| error.to_string())?;
        *current = level;
        Ok(())
    }

    /// Returns where messages go: `journal` or `console`.
    #[must_use]
    pub fn target(&self) -> &'static str {
        match self.output {
            Output::Journal(_) => "journal",
            Output::Stderr(_) => "console",
        }
    }
}

/// Whether standard error is connected to the journal (systemd.exec(5), `$JOURNAL_STREAM`): then
/// what is sent to the journal directly ends up in the same place, with its fields.
fn in_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

//! The log: the journal where the service's output goes there, standard error otherwise. Neither of them
//! blocks the service.
//!
//! Levels bear syslog's names, as systemd's `LogControl1` and users of `journalctl -p` expect.

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

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What fails.
    Err,
    /// What may be wrong: locks broken by force.
    Warning,
    /// The same as `Warning` here: nothing is logged at this level.
    Notice,
    /// Owners, locks, refusals.
    Info,
    /// Everything.
    Debug,
}

impl Level {
    /// syslog's word.
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
                Err(format!("'{word}' is no log level (err, warning, notice, info, debug)"))
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

/// Where messages are queued that are not written yet.
#[derive(Debug, Clone)]
enum Output {
    Journal(Post),
    Stderr(Stderr),
}

impl Log {
    /// Begins to log; where several users are served, each of them only so much.
    ///
    /// # Errors
    ///
    /// Where somebody logs already.
    pub fn begin(level: Level, several_users: bool) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::new(level.filter());
        // Where there is no journal after all, its stream is better than nothing.
        let journal = in_journal().then(Journal::open).and_then(Result::ok);
        let (output, layer): (Output, Box<dyn Layer<Registry> + Send + Sync>);
        if let Some(journal) = journal {
            (output, layer) = (Output::Journal(journal.post()), Box::new(journal));
        } else {
            let stderr = Stderr::open();
            let stderr = stderr.map_err(|error| format!("the log can't be opened: {error}"))?;
            let text = tracing_subscriber::fmt::layer()
                .fmt_fields(console::Fields)
                .with_writer(stderr.clone())
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false)
                .without_time();
            (output, layer) = (Output::Stderr(stderr), Box::new(text));
        }
        let filter = filter.and(PerUser::new(several_users));
        let begun = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
        begun.map_err(|error| format!("the log can't be opened: {error}"))?;
        Ok(Self { level: Arc::new(Mutex::new(level)), filter: handle, output })
    }

    /// Waits a little until what was logged has left this process, which is about to end.
    pub fn finish(&self) {
        match &self.output {
            Output::Journal(post) => post.finish(),
            Output::Stderr(stderr) => stderr.finish(),
        }
    }

    /// How much is logged.
    #[must_use]
    pub fn level(&self) -> Level {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs more or less from now on.
    ///
    /// # Errors
    ///
    /// Only where the log is at its end.
    pub fn set_level(&self, level: Level) -> Result<(), String> {
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.filter.reload(level.filter()).map_err(|error| error.to_string())?;
        *current = level;
        Ok(())
    }

    /// Where it goes: `journal` or `console`.
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
    let Ok(stat) = nix::sys::stat::fstat(std::io::stderr()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

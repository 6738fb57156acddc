//! How the program replaces itself by the one that is installed now.
//!
//! What is kept is inherited, so there is no instant without it, and no service manager is needed.
//! virtlockd knows the same signal for it. Nobody can come back from an exec that went wrong; so
//! the other program is asked first, whether it starts at all and understands the state.

use std::ffi::{CString, NulError, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, execve};
use tokio::process::Command;

use crate::keep::inherited::VARIABLE;
use crate::lock::printable::{reason, shown, shown_path};

/// How long the other program may take to look at the state.
const PATIENCE: Duration = Duration::from_secs(10);

/// This program, by the path at which it is installed.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    runtime_dir: PathBuf,
}

/// Why the program was not replaced. The old one goes on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other program can't be started.
    #[error("cannot start {program}: {}", reason(cause))]
    Start {
        /// The program.
        program: String,
        /// The cause.
        cause: io::Error,
    },
    /// The other program says that it could not go on.
    #[error("{program} cannot take over: {why}")]
    Unfit {
        /// The program.
        program: String,
        /// What it said.
        why: String,
    },
    /// Something that would hold up the end of this program.
    #[error("a file system request hangs, so this process could not exit")]
    Hanging,
    /// What is kept can't be passed on.
    #[error(transparent)]
    Keep(#[from] crate::service::Error),
}

impl Program {
    /// This program. To be called at the start, while its path leads to it.
    ///
    /// # Errors
    ///
    /// Where the kernel does not tell what this program is.
    pub fn this(runtime_dir: PathBuf) -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        // As it was called, if that is a path: a link may lead to another version by then.
        let called = arguments.next().map(PathBuf::from).filter(|path| path.is_absolute());
        let path = match called {
            Some(path) => path,
            None => std::env::current_exe()?,
        };
        Ok(Self { path, arguments: arguments.collect(), runtime_dir })
    }

    /// Asks the program that is installed now whether it could take over: from the state, and with
    /// the configuration that is there now.
    ///
    /// # Errors
    ///
    /// [`Error::Start`], [`Error::Unfit`].
    pub async fn check(&self, configuration: Option<&Path>) -> Result<(), Error> {
        self.ask("--check-state", &self.runtime_dir).await?;
        if let Some(file) = configuration {
            self.ask("--check-config", file).await?;
        }
        Ok(())
    }

    async fn ask(&self, question: &str, about: &Path) -> Result<(), Error> {
        let mut command = Command::new(&self.path);
        command.arg(question).arg(about).stdin(Stdio::null());
        command.kill_on_drop(true);
        let unfit = |why: String| Error::Unfit { program: shown_path(&self.path), why };
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .map_err(|_| unfit(format!("it did not respond within {} s", PATIENCE.as_secs())))?
            .map_err(|cause| Error::Start { program: shown_path(&self.path), cause })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().next_back().map_or_else(|| output.status.to_string(), shown);
        Err(unfit(last))
    }

    /// Replaces this program; returns only if that can't be done.
    ///
    /// `inherited` tells the other what is passed on. Signals are to be [held](hold_signals) before:
    /// until the other knows what to do about them, each would end it.
    #[must_use]
    pub fn replace(&self, inherited: &str) -> Error {
        let failed = |cause| Error::Start { program: shown_path(&self.path), cause };
        let (path, arguments, environment) = match self.words(inherited) {
            Ok(words) => words,
            Err(error) => return failed(io::Error::other(error)),
        };
        let Err(errno) = execve(&path, &arguments, &environment);
        failed(errno.into())
    }

    fn words(&self, inherited: &str) -> Result<(CString, Vec<CString>, Vec<CString>), NulError> {
        let path = CString::new(self.path.clone().into_os_string().into_vec())?;
        let mut arguments = vec![path.clone()];
        for argument in &self.arguments {
            arguments.push(CString::new(argument.clone().into_vec())?);
        }
        let mut environment = vec![CString::new(format!("{VARIABLE}={inherited}"))?];
        for (mut name, value) in std::env::vars_os() {
            // What the service manager passed was taken over long since, and its numbers are others.
            let passed = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", VARIABLE];
            if passed.iter().any(|passed| name == *passed) {
                continue;
            }
            name.push("=");
            name.push(value);
            environment.push(CString::new(name.into_vec())?);
        }
        Ok((path, arguments, environment))
    }
}

/// Signals that would end a program that does not know them yet.
pub const SIGNALS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1];

fn signals() -> SigSet {
    SIGNALS.into_iter().collect()
}

/// Keeps signals from this thread. Once no thread takes them, they wait for the next program.
///
/// # Errors
///
/// None that can happen.
pub fn hold_signals() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

/// Takes leave of the processes that the program before this one had started: they end by themselves,
/// now that nobody talks to them any more, and one of them may take its time.
pub fn see_off_children() {
    let own = format!("/proc/self/task/{}/children", std::process::id());
    let children = std::fs::read_to_string(own).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let wait = move || waitpid(Pid::from_raw(child), None);
        if let Err(error) = std::thread::Builder::new().name("farewell".to_owned()).spawn(wait) {
            tracing::debug!(%error, child, "cannot reap a child process");
        }
    }
}

/// Lets signals through that were kept while one program replaced the other. To be called once
/// handlers are installed.
///
/// # Errors
///
/// None that can happen.
pub fn let_signals_through() -> io::Result<()> {
    Ok(signals().thread_unblock()?)
}

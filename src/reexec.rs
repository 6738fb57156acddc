//! Re-execution: the running program replaces itself by the installed one with `execve(2)`.
//!
//! The new program inherits the descriptors of all locks, so there is no instant without them, and no
//! service manager is needed. virtlockd re-executes itself on the same signal, SIGUSR1. There is no
//! rollback after `execve(2)`, so the new program is first run to check that it starts, and that it can
//! read the state and the configuration.

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

use crate::keep::stash::inherited::VARIABLE;
use crate::lock::text::escape::{reason, shown, shown_path};

/// How long a check by the new program may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The program of this process, by the path at which it is installed.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    runtime_dir: PathBuf,
}

/// Why the program was not replaced. The old program keeps running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The new program cannot be started.
    #[error("cannot start {program}: {}", reason(cause))]
    Start {
        /// The path of the program.
        program: String,
        /// The cause.
        cause: io::Error,
    },
    /// The new program has reported that it cannot take over.
    #[error("{program} cannot take over: {why}")]
    Incompatible {
        /// The path of the program.
        program: String,
        /// The message of the program.
        why: String,
    },
    /// A request that hangs in the kernel, which would block `execve(2)`.
    #[error("a file system request hangs, so this process could not exit")]
    Hanging,
    /// The state or the descriptors cannot be passed on.
    #[error(transparent)]
    Keep(#[from] crate::service::Error),
}

impl Program {
    /// Returns the program of this process. Must be called at the start, before its file is replaced.
    ///
    /// # Errors
    ///
    /// The errors of [`std::env::current_exe`].
    pub fn this(runtime_dir: PathBuf) -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        // The path of the command line, if it is absolute, since it may be a link to the current version.
        let called = arguments.next().map(PathBuf::from).filter(|path| path.is_absolute());
        let path = match called {
            Some(path) => path,
            None => std::env::current_exe()?,
        };
        Ok(Self { path, arguments: arguments.collect(), runtime_dir })
    }

    /// Runs the installed program to check that it can read the state and the configuration.
    ///
    /// # Errors
    ///
    /// [`Error::Start`], [`Error::Incompatible`].
    pub async fn check(&self, configuration: Option<&Path>) -> Result<(), Error> {
        self.run_check("--check-state", &self.runtime_dir).await?;
        if let Some(file) = configuration {
            self.run_check("--check-config", file).await?;
        }
        Ok(())
    }

    async fn run_check(&self, option: &str, path: &Path) -> Result<(), Error> {
        let mut command = Command::new(&self.path);
        command.arg(option).arg(path).stdin(Stdio::null());
        command.kill_on_drop(true);
        let incompatible =
            |why: String| Error::Incompatible { program: shown_path(&self.path), why };
        let output = tokio::time::timeout(CHECK_TIMEOUT, command.output())
            .await
            .map_err(|_| {
                incompatible(format!("it did not respond within {} s", CHECK_TIMEOUT.as_secs()))
            })?
            .map_err(|cause| Error::Start { program: shown_path(&self.path), cause })?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last_line = stderr.lines().next_back().map_or_else(|| output.status.to_string(), shown);
        Err(incompatible(last_line))
    }

    /// Executes the installed program in this process. Returns only if that fails.
    ///
    /// `inherited` lists the descriptors that are passed on. Signals must be [blocked](block_signals)
    /// before, since each would end the new program until it has installed its handlers.
    #[must_use]
    pub fn execute(&self, inherited: &str) -> Error {
        let failed = |cause| Error::Start { program: shown_path(&self.path), cause };
        let (path, arguments, environment) = match self.execve_arguments(inherited) {
            Ok(strings) => strings,
            Err(error) => return failed(io::Error::other(error)),
        };
        let Err(errno) = execve(&path, &arguments, &environment);
        failed(errno.into())
    }

    /// Returns the path, the arguments and the environment for `execve(2)`.
    fn execve_arguments(
        &self,
        inherited: &str,
    ) -> Result<(CString, Vec<CString>, Vec<CString>), NulError> {
        let path = CString::new(self.path.clone().into_os_string().into_vec())?;
        let mut arguments = vec![path.clone()];
        for argument in &self.arguments {
            arguments.push(CString::new(argument.clone().into_vec())?);
        }
        let mut environment = vec![CString::new(format!("{VARIABLE}={inherited}"))?];
        for (mut name, value) in std::env::vars_os() {
            // This program has taken over what the service manager passed; the numbers have changed.
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

/// The signals that end a program without handlers for them.
pub const SIGNALS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1];

fn signal_set() -> SigSet {
    SIGNALS.into_iter().collect()
}

/// Blocks [`SIGNALS`] in this thread. Signals that are blocked in all threads stay pending over
/// `execve(2)`.
///
/// # Errors
///
/// The errors of `pthread_sigmask(3)`, which cannot fail here.
pub fn block_signals() -> io::Result<()> {
    Ok(signal_set().thread_block()?)
}

/// Reaps the child processes of the program before this one, in the background: they exit, since the
/// other ends of their pipes are closed, but may take a while.
pub fn reap_inherited_children() {
    let path = format!("/proc/self/task/{}/children", std::process::id());
    let children = std::fs::read_to_string(path).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let wait = move || waitpid(Pid::from_raw(child), None);
        if let Err(error) = std::thread::Builder::new().name("reaper".to_owned()).spawn(wait) {
            tracing::debug!(%error, child, "cannot reap a child process");
        }
    }
}

/// Unblocks the signals that were blocked during a re-execution. Must be called after the handlers are
/// installed.
///
/// # Errors
///
/// The errors of `pthread_sigmask(3)`, which cannot fail here.
pub fn unblock_signals() -> io::Result<()> {
    Ok(signal_set().thread_unblock()?)
}

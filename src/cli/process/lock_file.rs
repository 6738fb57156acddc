//! Finds the process of the service without the bus, by the lock file in its runtime directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::client::Bus;
use crate::lock::text::escape::shown_path;
use crate::lock::{Mode, ofd};

/// The state of the service, according to its lock file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ProcessState {
    /// It is running, with this PID.
    Running(u32),
    /// It is not running.
    Stopped,
    /// The lock file cannot be read, or contains no PID.
    Unknown,
}

/// Returns the default runtime directory of the service of a bus.
pub(crate) fn default_directory(bus: Bus) -> Option<PathBuf> {
    match bus {
        Bus::System => Some("/run/vmlockd".into()),
        Bus::Session => Some(PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?).join("vmlockd")),
    }
}

impl ProcessState {
    /// Reads the lock file. Its PID is valid only while the file is locked; otherwise it is that of
    /// a former service, and another process may have it.
    pub(crate) fn read(directory: &Path) -> Self {
        let path = directory.join("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::Stopped,
            Err(_) => return Self::Unknown,
        };
        match ofd::conflicting_lock(&file, Mode::Exclusive) {
            Ok(Some(_)) => {}
            Ok(None) => return Self::Stopped,
            Err(_) => return Self::Unknown,
        }
        let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        pid.map_or(Self::Unknown, Self::Running)
    }
}

/// Returns how to re-execute a service that cannot be called on the bus.
pub(crate) fn reexec_advice(directory: Option<&Path>) -> String {
    let Some(directory) = directory else {
        return "a running service re-executes itself on SIGUSR1".to_owned();
    };
    match ProcessState::read(directory) {
        ProcessState::Running(pid) => {
            format!("the service runs as process {pid}; re-execute it with 'kill -USR1 {pid}'")
        }
        ProcessState::Stopped => format!("no service runs in {}", shown_path(directory)),
        ProcessState::Unknown => {
            let file = shown_path(&directory.join("lock"));
            format!("if a service runs, re-execute it with 'kill -USR1 $(cat {file})'")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_is_valid_while_the_file_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ProcessState::read(dir.path()), ProcessState::Stopped);
        let path = dir.path().join("lock");
        fs::write(&path, "4711\n").unwrap();
        assert!(reexec_advice(Some(dir.path())).starts_with("no service runs in "));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        assert!(ofd::try_lock(&file, Mode::Exclusive).unwrap());
        assert_eq!(ProcessState::read(dir.path()), ProcessState::Running(4711));
        assert!(reexec_advice(Some(dir.path())).contains("'kill -USR1 4711'"));
        fs::write(&path, "").unwrap();
        assert!(reexec_advice(Some(dir.path())).contains("$(cat "));
    }
}

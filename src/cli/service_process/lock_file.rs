//! The service's process, found without a bus: by the lock file in its runtime directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::client::Bus;
use crate::lock::printable::shown_path;
use crate::lock::{Mode, ofd};

/// Whether a service runs, according to its runtime directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Running {
    /// A service runs there.
    Process(u32),
    /// No service runs there.
    Stopped,
    /// The lock file cannot be read, or has no process number.
    Unknown,
}

/// The default runtime directory of the service of a bus.
pub(crate) fn directory(bus: Bus) -> Option<PathBuf> {
    match bus {
        Bus::System => Some("/run/vmlockd".into()),
        Bus::Session => Some(PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?).join("vmlockd")),
    }
}

impl Running {
    /// Reads the lock file. Its process number counts only while the file is locked: otherwise it is left
    /// over, and another process may have the number.
    pub(crate) fn look(directory: &Path) -> Self {
        let path = directory.join("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::Stopped,
            Err(_) => return Self::Unknown,
        };
        match ofd::in_the_way(&file, Mode::Exclusive) {
            Ok(Some(_)) => {}
            Ok(None) => return Self::Stopped,
            Err(_) => return Self::Unknown,
        }
        let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        pid.map_or(Self::Unknown, Self::Process)
    }
}

/// How to re-execute a service that cannot be called over the bus.
pub(crate) fn advice(directory: Option<&Path>) -> String {
    let Some(directory) = directory else {
        return "a running service re-executes itself on SIGUSR1".to_owned();
    };
    match Running::look(directory) {
        Running::Process(pid) => {
            format!("the service runs as process {pid}; re-execute it with 'kill -USR1 {pid}'")
        }
        Running::Stopped => format!("no service runs in {}", shown_path(directory)),
        Running::Unknown => {
            let file = shown_path(&directory.join("lock"));
            format!("if a service runs, re-execute it with 'kill -USR1 $(cat {file})'")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_while_the_file_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Running::look(dir.path()), Running::Stopped);
        let path = dir.path().join("lock");
        fs::write(&path, "4711\n").unwrap();
        assert!(advice(Some(dir.path())).starts_with("no service runs in "));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        assert!(ofd::try_lock(&file, Mode::Exclusive).unwrap());
        assert_eq!(Running::look(dir.path()), Running::Process(4711));
        assert!(advice(Some(dir.path())).contains("'kill -USR1 4711'"));
        fs::write(&path, "").unwrap();
        assert!(advice(Some(dir.path())).contains("$(cat "));
    }
}

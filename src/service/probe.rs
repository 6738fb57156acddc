//! Whether a file system answers, asked by a process of its own.
//!
//! A thread that asks one that hangs could neither be stopped nor left behind, and the service
//! would not even end; a process can be left behind.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::lock::printable::shown_path;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks one file system, with one process at a time.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// One that has not come back. It is let be: once the file system answers, so does it.
    asking: Option<Child>,
}

impl Probe {
    /// Whether the file system of a file answers. Waits for one answer only once.
    ///
    /// Only a probe that ended well has had an answer: one that was killed has not.
    pub(super) async fn answers(&mut self, file: &Path) -> bool {
        let ended = match self.asking.take() {
            Some(mut child) => match child.try_wait() {
                Ok(None) => {
                    self.asking = Some(child);
                    return false;
                }
                Ok(Some(status)) => Ok(status),
                Err(error) => Err(error),
            },
            None => match ask(file) {
                Ok(mut child) => {
                    let Ok(ended) = timeout(PATIENCE, child.wait()).await else {
                        tracing::warn!("the file system of {} does not answer", shown_path(file));
                        self.asking = Some(child);
                        return false;
                    };
                    ended
                }
                Err(error) => Err(error),
            },
        };
        match ended {
            Ok(status) => status.success(),
            Err(error) => {
                tracing::error!(%error, "asking a file system whether it answers");
                false
            }
        }
    }
}

fn ask(file: &Path) -> std::io::Result<Child> {
    // Whatever is installed by now, this is the program that knows the argument.
    let mut probe = Command::new("/proc/self/exe");
    probe.arg("--probe").arg(file);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    probe.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_was_killed_has_had_no_answer() {
        let child = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
        let mut probe = Probe { asking: Some(child) };
        assert!(!probe.answers(Path::new("/")).await, "it has not come back");
        let child = probe.asking.as_mut().unwrap();
        child.start_kill().unwrap();
        child.wait().await.unwrap();
        assert!(!probe.answers(Path::new("/")).await);
        assert!(probe.asking.is_none());
    }

    #[tokio::test]
    async fn who_ended_well_has_had_one() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().await.unwrap();
        let mut probe = Probe { asking: Some(child) };
        assert!(probe.answers(Path::new("/")).await);
    }
}

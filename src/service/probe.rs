//! Whether a file system answers, asked by a process of its own.
//!
//! A thread that asks one that hangs could neither be stopped nor left behind, and the service
//! would not even end; a process can be left behind.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks one file system, with one process at a time.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// One that has not come back.
    asking: Option<Child>,
}

impl Probe {
    /// Whether the file system of a file answers.
    pub(super) async fn answers(&mut self, file: &Path) -> bool {
        let mut child = match self.asking.take().map_or_else(|| ask(file), Ok) {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(%error, "asking a file system whether it answers");
                return false;
            }
        };
        let answered = timeout(PATIENCE, child.wait()).await.is_ok_and(|ended| ended.is_ok());
        if !answered {
            // Where that does not help either, there will be no second one.
            if let Err(error) = child.start_kill() {
                tracing::debug!(%error, "ending what asks a file system");
            }
            self.asking = Some(child);
        }
        answered
    }
}

fn ask(file: &Path) -> std::io::Result<Child> {
    // Whatever is installed by now, this is the program that knows the argument.
    let mut probe = Command::new("/proc/self/exe");
    probe.arg("--probe").arg(file);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    probe.spawn()
}

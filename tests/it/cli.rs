//! The tool that is shipped, as people and scripts use it.

#![allow(clippy::unwrap_used, reason = "what a test can't do ends it, in its helpers too")]

mod complete;
mod doctor;
mod errors;
pub(crate) mod forged;
pub(crate) mod host;
mod instances;
mod left_processes;
mod listing;
mod lockspace;
mod metrics;
mod mistakes;
mod monitor;
mod names;
mod quiet;
mod reexec;
mod refused;
mod reload;
mod run;
mod status;
mod stopped;
mod suspend;
mod targets;
mod terminal;
mod time_zone;
mod virtlockd_leftover;
mod wait;
mod watch;

use std::path::Path;

use tokio::process::Command;

use crate::fixture::{CommandOutput, Fixture, Tool};

/// A command that says its process number and then lives until its standard input ends: when
/// [`Tool::end_input`] says so, or with this binary.
const LIVES: [&str; 3] = ["sh", "-c", "echo $$; exec cat"];

impl Tool {
    /// Starts a command that [`Fixture::command`] began.
    fn start(fixture: &Fixture, command: Command) -> Self {
        Self::new(command, &fixture.dir().join("tool.log"))
    }

    /// Starts `vmlockctl` with these arguments.
    pub(crate) fn vmlockctl(fixture: &Fixture, arguments: &[&str]) -> Self {
        let mut command = fixture.command("vmlockctl");
        command.args(arguments);
        Self::start(fixture, command)
    }

    /// Locks disks while [`LIVES`] runs; returns once it runs, with its process number.
    async fn holding(fixture: &Fixture, arguments: &[&str]) -> (Self, i32) {
        let line = [&["run"], arguments, &["--"], &LIVES].concat();
        let mut tool = Self::vmlockctl(fixture, &line);
        let pid = tool.line().await.parse().unwrap();
        (tool, pid)
    }
}

/// Runs `vmlockctl` to its end.
pub(crate) async fn vmlockctl(fixture: &Fixture, arguments: &[&str]) -> CommandOutput {
    fixture.run("vmlockctl", arguments).await
}

/// Runs it where it must end with this code; what it complains of comes back.
pub(crate) async fn fails(fixture: &Fixture, code: i32, arguments: &[&str]) -> String {
    let ran = vmlockctl(fixture, arguments).await;
    assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {ran:#?}");
    ran.stderr
}

/// How to start the service, as the tool advises on this host.
fn start_advice() -> &'static str {
    if Path::new("/run/systemd/system").is_dir() {
        "'systemctl start vmlockd'"
    } else {
        "'vmlockd --system'"
    }
}

/// Runs it where it must print one JSON document.
pub(crate) async fn json(fixture: &Fixture, arguments: &[&str]) -> serde_json::Value {
    let text = vmlockctl(fixture, &[&["--json"], arguments].concat()).await.ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

pub(crate) fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

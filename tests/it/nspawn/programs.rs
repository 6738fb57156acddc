//! Programs that are run in a host.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::{Host, MainProcess};
use crate::fixture::{CommandOutput, Tool, run};

impl Host {
    /// A command of an administrator who has come in: in none of the host's units.
    fn command_in_host(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.container.leader()));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs such a command to its end.
    pub(crate) async fn run_outside_units(&self, words: &[&str]) -> CommandOutput {
        let mut command = self.command_in_host();
        command.args(words);
        run(command).await
    }

    /// Returns a command that runs as a unit, and so in a control group, by a user of the host.
    fn enter_as(&self, user: &str, words: &[&str]) -> Command {
        let mut command = self.command_in_host();
        command.args(["systemd-run", "--quiet", "--pipe", "--wait", "--collect"]);
        command.args(["--service-type=exec", "--setenv=LC_ALL=C.UTF-8", "--uid", user, "--"]);
        command.args(dollars(words));
        command
    }

    /// Runs a program as root to its end.
    pub(crate) async fn run(&self, words: &[&str]) -> CommandOutput {
        self.run_as("root", words).await
    }

    /// Runs a program to its end.
    pub(crate) async fn run_as(&self, user: &str, words: &[&str]) -> CommandOutput {
        run(self.enter_as(user, words)).await
    }

    /// Starts a program as root, to be talked to. It is left with an input that ends when the tool
    /// is dropped; until then nothing that is done to systemd or the bus ends it.
    pub(crate) fn spawn(&self, words: &[&str]) -> Tool {
        self.spawn_as("root", words)
    }

    /// Starts a program as a user of the host.
    pub(crate) fn spawn_as(&self, user: &str, words: &[&str]) -> Tool {
        Tool::new(self.enter_as(user, words), &self.log())
    }

    /// Runs a program that must print one JSON document.
    pub(crate) async fn json(&self, words: &[&str]) -> Value {
        let text = self.run(words).await.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Starts a program as the service `name` of this type; it is up when this returns.
    pub(crate) async fn start(&self, name: &str, kind: &str, words: &[&str]) -> MainProcess {
        let mut command = self.command_in_host();
        command.args(["systemd-run", "--quiet", "--unit", name]);
        command.arg(format!("--service-type={kind}")).arg("--").args(dollars(words));
        run(command).await.ok();
        self.main_of(&format!("{name}.service")).await
    }

    /// Runs `systemctl`, which must succeed, and returns its output.
    pub(crate) async fn systemctl(&self, words: &[&str]) -> String {
        let mut command = self.command_in_host();
        command.arg("systemctl").args(words);
        run(command).await.ok()
    }

    /// Returns the journal of the service since the boot, with systemd's messages about it.
    pub(crate) async fn journal(&self) -> String {
        let mut command = self.command_in_host();
        command.args(JOURNAL);
        run(command).await.ok()
    }

    /// The end of that, for a test that has failed.
    pub(super) fn log_tail(&self) -> String {
        let mut command = self.command_in_host();
        command.args(JOURNAL).arg("--lines=60");
        match command.into_std().output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => format!("journalctl: {error}\n"),
        }
    }
}

/// Asks for what the service and systemd have written about it since the boot.
pub(crate) const JOURNAL: [&str; 6] = [
    "journalctl",
    "--quiet",
    "--no-pager",
    "--boot",
    "--output=short-monotonic",
    "--unit=vmlockd.service",
];

/// The words as systemd has to be told them: it puts the values of variables into a command.
fn dollars(words: &[&str]) -> impl Iterator<Item = String> {
    words.iter().map(|word| word.replace('$', "$$"))
}

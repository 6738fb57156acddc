//! Programs that are run in a machine.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    PATIENCE, Vm,
    base64::{decode, encode},
};
use crate::{fixture::CommandOutput, nspawn::JOURNAL};

/// The exit code of `vmlockctl` where the service is not running.
const NOT_RUNNING: i32 = 69;
/// The unit.
const UNIT: &str = "vmlockd.service";

/// A program that runs in a machine beside the test.
pub(crate) struct Running<'v> {
    vm: &'v Vm,
    pid: Value,
    what: String,
}

impl Vm {
    /// Runs a program as root to its end: beside the agent, a service of systemd's.
    pub(crate) fn run(&self, words: &[&str]) -> CommandOutput {
        self.spawn(words).ended()
    }

    /// Runs a program with input.
    pub(crate) fn run_with_input(&self, words: &[&str], input: &str) -> CommandOutput {
        self.started(words, Some(input)).unwrap_or_else(|reason| panic!("{reason}")).ended()
    }

    /// Starts a program as root. It ends by itself, or with the machine.
    pub(crate) fn spawn(&self, words: &[&str]) -> Running<'_> {
        self.started(words, None).unwrap_or_else(|reason| panic!("{reason}"))
    }

    fn started(&self, words: &[&str], input: Option<&str>) -> Result<Running<'_>, String> {
        let mut arguments = json!({
            "path": words[0],
            "arg": words[1..],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"],
            "capture-output": true,
        });
        if let Some(input) = input {
            arguments["input-data"] = encode(input.as_bytes()).into();
        }
        let what = format!("{words:?} on {}", self.name);
        let said = self.agent.try_ask("guest-exec", &arguments);
        let said = said.map_err(|reason| format!("{what}: {reason}"))?;
        Ok(Running { vm: self, pid: said["pid"].clone(), what })
    }

    /// Runs a program that must print one JSON document.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let text = self.run(words).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// The locks that `vmlockctl list` prints; `None` while the service is not running, as between
    /// its death and its restart.
    pub(crate) fn locks(&self) -> Option<Vec<Value>> {
        let ran = self.run(&["vmlockctl", "--json", "list"]);
        if ran.status.code() == Some(NOT_RUNNING) {
            return None;
        }
        Some(serde_json::from_str(&ran.ok()).unwrap())
    }

    /// Writes a file, and makes the directories that lead to it.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let script = "mkdir -p \"${0%/*}\" && cat >\"$0\"";
        self.run_with_input(&["sh", "-euc", script, path], text).ok();
    }

    /// Runs shell commands that must all succeed, and returns their output.
    pub(crate) fn script(&self, lines: &str) -> String {
        self.run(&["sh", "-euc", lines]).ok()
    }

    /// Runs `systemctl`, which must succeed, and returns its output.
    pub(crate) fn systemctl(&self, words: &[&str]) -> String {
        self.run(&[&["systemctl"], words].concat()).ok()
    }

    /// Starts the service, and has it started at every boot, as packages do.
    pub(crate) fn enable(&self) {
        // Ready means that it owns its name.
        self.systemctl(&["enable", "--quiet", "--now", UNIT]);
    }

    /// A property of the service's unit.
    pub(crate) fn property(&self, name: &str) -> String {
        let said = self.systemctl(&["show", "--property", name, "--value", UNIT]);
        said.trim().to_owned()
    }

    /// Returns the journal of the service since the boot, with systemd's messages about it.
    pub(crate) fn journal(&self) -> String {
        self.run(&JOURNAL).ok()
    }

    /// The end of that, for a test that has failed.
    pub(super) fn log_tail(&self) -> String {
        let words = [&JOURNAL[..], &["--lines=60"]].concat();
        self.agent.hurry();
        let ran = self.started(&words, None).and_then(|journal| journal.wait());
        ran.map_or_else(|reason| format!("{reason}\n"), |ran| ran.stdout)
    }
}

impl Running<'_> {
    /// Waits until it ends.
    pub(crate) fn ended(&self) -> CommandOutput {
        self.wait().unwrap_or_else(|reason| panic!("{reason}"))
    }

    /// Whether it runs. How it ended, if it did, is told once.
    pub(crate) fn runs(&self) -> bool {
        let said = self.vm.agent.ask("guest-exec-status", &json!({ "pid": self.pid }));
        said["exited"] != true
    }

    fn wait(&self) -> Result<CommandOutput, String> {
        let since = Instant::now();
        loop {
            let arguments = json!({ "pid": self.pid });
            let said = self.vm.agent.try_ask("guest-exec-status", &arguments);
            let said = said.map_err(|reason| format!("{}: {reason}", self.what))?;
            if said["exited"] == true {
                return Ok(ran(&said));
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("{} does not end in {} s", self.what, PATIENCE.as_secs()));
            }
            // The agent tells of an end when it is asked, and each answer takes time from the one
            // processor that it is about.
            sleep(Duration::from_millis(50));
        }
    }
}

fn ran(said: &Value) -> CommandOutput {
    let number =
        |key: &str| i32::try_from(said[key].as_i64().unwrap_or(0)).expect("a small number");
    let text = |key: &str| {
        let bytes = decode(said[key].as_str().unwrap_or_default());
        String::from_utf8(bytes).expect("programs print UTF-8")
    };
    CommandOutput {
        status: ExitStatus::from_raw(number("exitcode") << 8 | number("signal")),
        stdout: text("out-data"),
        stderr: text("err-data"),
    }
}

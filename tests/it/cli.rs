//! The tool that is shipped, as people and scripts use it.

#![allow(clippy::unwrap_used, reason = "what a test can't do ends it, in its helpers too")]

mod look;
mod run;
mod trouble;

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _, pipe};
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio::task::spawn_blocking;

use crate::house::{House, Process, Ran, within};

/// A command that says its process number and then lives until its standard input ends: when
/// [`Tool::end_input`] says so, or with this binary.
const LIVES: [&str; 3] = ["sh", "-c", "echo $$; exec cat"];

/// A program that runs beside the test, talked to through its standard input and output.
struct Tool {
    process: Process,
    input: Option<PipeWriter>,
    output: Option<BufReader<PipeReader>>,
}

impl Tool {
    /// Starts a command that [`House::command`] began.
    fn start(house: &House, command: Command) -> Self {
        let ((stdin, input), (output, stdout)) = (pipe().unwrap(), pipe().unwrap());
        let mut command = command.into_std();
        command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout));
        let name = command.get_program().display().to_string();
        let process = Process::start(&name, command, &house.dir().join("tool.log"));
        Self { process, input: Some(input), output: Some(BufReader::new(output)) }
    }

    /// Starts `vmlockctl` with these arguments.
    fn vmlockctl(house: &House, arguments: &[&str]) -> Self {
        let mut command = house.command("vmlockctl");
        command.args(arguments);
        Self::start(house, command)
    }

    /// Has disks locked while [`LIVES`] lives; returns once it does, with its process number.
    async fn holding(house: &House, arguments: &[&str]) -> (Self, i32) {
        let line = [&["run"], arguments, &["--"], &LIVES].concat();
        let mut tool = Self::vmlockctl(house, &line);
        let pid = tool.line().await.parse().unwrap();
        (tool, pid)
    }

    /// The next line of its output.
    async fn line(&mut self) -> String {
        let mut output = self.output.take().unwrap();
        let read = spawn_blocking(move || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            (line, output)
        });
        let (line, output) = within("a line of output", read).await.unwrap();
        self.output = Some(output);
        assert!(line.ends_with('\n'), "it has ended after {line:?}: {}", self.process.stderr());
        line.trim_end().to_owned()
    }

    /// Writes a line to its input.
    fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    fn end_input(&mut self) {
        self.input = None;
    }

    fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    async fn ended(&self) -> ExitStatus {
        within("the tool ends", self.process.ended()).await
    }

    /// Ends its input, and waits until it ends.
    async fn finish(mut self) -> ExitStatus {
        self.end_input();
        self.ended().await
    }
}

/// Runs `vmlockctl` to its end.
async fn vmlockctl(house: &House, arguments: &[&str]) -> Ran {
    house.run("vmlockctl", arguments).await
}

/// Runs it where it must end with this code; what it complains of comes back.
async fn fails(house: &House, code: i32, arguments: &[&str]) -> String {
    let ran = vmlockctl(house, arguments).await;
    assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {ran:#?}");
    ran.stderr
}

/// Runs it where it must print one JSON document.
async fn json(house: &House, arguments: &[&str]) -> serde_json::Value {
    let text = vmlockctl(house, &[&["--json"], arguments].concat()).await.ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

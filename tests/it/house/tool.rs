//! Programs that run beside the test.

use std::{
    io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _, pipe},
    path::Path,
    process::{ExitStatus, Stdio},
};

use nix::sys::signal::Signal;
use tokio::{process::Command, task::spawn_blocking};

use super::{Process, within};

/// A program that runs beside the test, talked to through its standard input and output.
pub(crate) struct Tool {
    pub(crate) process: Process,
    pub(crate) input: Option<PipeWriter>,
    pub(crate) output: Option<BufReader<PipeReader>>,
}

impl Tool {
    /// Starts a command whose standard error goes to the end of the file `log`.
    pub(crate) fn new(command: Command, log: &Path) -> Tool {
        let ((stdin, input), (output, stdout)) = (pipe().unwrap(), pipe().unwrap());
        let mut command = command.into_std();
        command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout));
        let name = command.get_program().display().to_string();
        let process = Process::start(&name, command, log);
        Tool { process, input: Some(input), output: Some(BufReader::new(output)) }
    }

    /// Starts a command that reads from `input`, and is not talked to.
    pub(crate) fn with_input(command: Command, log: &Path, input: impl Into<Stdio>) -> Tool {
        let (output, stdout) = pipe().unwrap();
        let mut command = command.into_std();
        command.stdin(input).stdout(Stdio::from(stdout));
        let name = command.get_program().display().to_string();
        let process = Process::start(&name, command, log);
        Tool { process, input: None, output: Some(BufReader::new(output)) }
    }

    /// The next line of its output.
    pub(crate) async fn line(&mut self) -> String {
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
    pub(crate) fn say(&mut self, line: &str) {
        // At once: a program that ends at the line's end reads no more after it.
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Ends its input.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it ends.
    pub(crate) async fn ended(&self) -> ExitStatus {
        within("the tool ends", self.process.ended()).await
    }

    /// Ends its input, and waits until it ends.
    pub(crate) async fn finish(mut self) -> ExitStatus {
        self.end_input();
        self.ended().await
    }
}

//! Programs that a test runs to their end.

use std::{path::PathBuf, process::ExitStatus};

use tokio::process::Command;

use super::within;

/// What a program did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The output of a program that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }

    /// The complaint of a program that must have failed.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert!(!self.status.success(), "{self:#?}");
        self.stderr
    }
}

/// Where a program is: ours where cargo has built them, others where `PATH` says.
pub(crate) fn program(name: &str) -> PathBuf {
    match name {
        "vmlockd" => env!("CARGO_BIN_EXE_vmlockd").into(),
        "vmlockctl" => env!("CARGO_BIN_EXE_vmlockctl").into(),
        _ => name.into(),
    }
}

/// Runs a command to its end.
pub(crate) async fn run(mut command: Command) -> Ran {
    let name = command.as_std().get_program().display().to_string();
    command.kill_on_drop(true);
    let output = within(&name, command.output()).await;
    let output = output.unwrap_or_else(|e| panic!("can't run {name}: {e} (is it installed?)"));
    let text = |bytes| String::from_utf8(bytes).expect("programs print UTF-8");
    Ran { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

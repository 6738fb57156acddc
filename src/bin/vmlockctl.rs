//! The command-line tool.

use std::ffi::OsString;
use std::process::ExitCode;

use vmlockd::lock::trial;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = trial::main(&arguments) {
        return code;
    }
    vmlockd::cli::main(arguments)
}

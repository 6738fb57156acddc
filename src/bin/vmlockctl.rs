//! The command-line tool.

use std::ffi::OsString;
use std::process::ExitCode;

use vmlockd::lock::selftest::run;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = run::main(&arguments) {
        return code;
    }
    vmlockd::cli::main(arguments)
}

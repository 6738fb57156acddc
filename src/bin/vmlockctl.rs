//! The command-line tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmlockd::cli::main(std::env::args_os())
}

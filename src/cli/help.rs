//! `help`: the same as `--help` of a command.

use std::ffi::OsString;

use clap::Args;

use crate::client::Bus;

/// Print help for a command
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The command; without one, help for all of them is printed
    #[arg(value_name = "COMMAND")]
    commands: Vec<OsString>,
}

/// Returns the arguments, or the help that they ask for, as an error of clap's.
pub(crate) fn or_arguments(
    (bus, arguments): (Bus, crate::cli::Arguments),
) -> Result<(Bus, crate::cli::Arguments), clap::Error> {
    match arguments.verb {
        crate::cli::Verb::Help(Arguments { commands }) => {
            let line = ["vmlockctl".into()].into_iter().chain(commands).chain(["--help".into()]);
            crate::cli::parse(&line.collect::<Vec<OsString>>())
        }
        _ => Ok((bus, arguments)),
    }
}

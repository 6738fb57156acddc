//! `completions`: what shells need to complete our command lines.

use clap::{Args, Command, ValueEnum};
use clap_complete::{Shell, generate};

use super::code::Code;
use super::error::Error;
use super::output::print;

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The shell
    shell: Known,
}

/// The shells for which completions are installed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

/// Does it.
pub(super) fn perform(arguments: &Arguments, command: &mut Command) -> Result<Code, Error> {
    let shell = match arguments.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, command, "vmlockctl", &mut script);
    // Our own words, and a generator of shell scripts: text either way.
    print(&String::from_utf8_lossy(&script))?;
    Ok(Code::SUCCESS)
}

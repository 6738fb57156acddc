//! Colours on terminals: red for dangers and lost locks, yellow for warnings. Nothing else is
//! coloured.
//!
//! Output has no colours if standard output is not a terminal, if the terminal is dumb, or if the
//! environment variable `NO_COLOR` is set (<https://no-color.org>).

use std::ffi::OsStr;
use std::io::{self, IsTerminal};

use crate::cli::format::tty;

/// Words that are printed in red.
const DANGER: [&str; 4] = ["DANGER", "LOST", "CONFLICT", "YES:"];
/// Words that are printed in yellow.
const WARNING: [&str; 4] = ["warning", "unverified", "replaced", "deleted"];

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// Whether output is coloured.
pub(crate) fn is_enabled() -> bool {
    let variable = |name| std::env::var_os(name);
    is_allowed(variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
        && io::stdout().is_terminal()
}

fn is_allowed(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && tty::has_escape_sequences(term)
}

/// Colours a text that is one of the coloured words, with or without padding. Returns any other
/// text unchanged.
pub(crate) fn colour_word(text: &str) -> String {
    let is_one_of = |words: &[&str]| words.contains(&text.trim());
    if is_one_of(&DANGER) {
        format!("{RED}{text}{PLAIN}")
    } else if is_one_of(&WARNING) {
        format!("{YELLOW}{text}{PLAIN}")
    } else {
        text.to_owned()
    }
}

/// Colours the first word of a line if it is one of the coloured words and output is coloured.
pub(crate) fn colour_first_word(line: &str) -> String {
    match line.split_once(' ') {
        Some((first, rest)) if is_enabled() => format!("{} {rest}", colour_word(first)),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dangers_and_warnings_are_coloured() {
        assert_eq!(colour_word("LOST      "), "\x1b[1;31mLOST      \x1b[0m");
        assert_eq!(colour_word("warning"), "\x1b[33mwarning\x1b[0m");
        for text in ["", "ok", "note", "lost+found", "exclusive"] {
            assert_eq!(colour_word(text), text);
        }
    }

    #[test]
    fn the_environment_can_turn_colours_off() {
        let text = |text| Some(OsStr::new(text));
        assert!(is_allowed(None, text("xterm")) && is_allowed(text(""), None));
        assert!(!is_allowed(text("1"), text("xterm")) && !is_allowed(None, text("dumb")));
    }
}

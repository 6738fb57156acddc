//! Colour on terminals, for what must not be overlooked and for nothing else: red for danger and for
//! what is lost, yellow for warnings.
//!
//! There is none where standard output is no terminal, where the terminal is dumb, or where the
//! environment variable `NO_COLOR` is set (<https://no-color.org>).

use std::ffi::OsStr;
use std::io::{self, IsTerminal};

/// Words that name a danger, as they are printed.
const DANGER: [&str; 4] = ["DANGER", "LOST", "CONFLICT", "YES:"];
/// Words that name something to be looked after.
const WARNING: [&str; 4] = ["warning", "unverified", "replaced", "deleted"];

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// Whether standard output takes colours.
pub(crate) fn wanted() -> bool {
    let variable = |name| std::env::var_os(name);
    allowed(variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
        && io::stdout().is_terminal()
}

fn allowed(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

/// Colours a text, which may be padded, by what it says; most texts stay as they are.
pub(crate) fn word(text: &str) -> String {
    let is_one_of = |words: &[&str]| words.contains(&text.trim());
    if is_one_of(&DANGER) {
        format!("{RED}{text}{PLAIN}")
    } else if is_one_of(&WARNING) {
        format!("{YELLOW}{text}{PLAIN}")
    } else {
        text.to_owned()
    }
}

/// Colours the first word of a line by what it says, where colours are wanted.
pub(crate) fn first_word(line: &str) -> String {
    match line.split_once(' ') {
        Some((first, rest)) if wanted() => format!("{} {rest}", word(first)),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_danger_and_warnings() {
        assert_eq!(word("LOST      "), "\x1b[1;31mLOST      \x1b[0m");
        assert_eq!(word("warning"), "\x1b[33mwarning\x1b[0m");
        for text in ["", "ok", "note", "lost+found", "exclusive"] {
            assert_eq!(word(text), text);
        }
    }

    #[test]
    fn the_environment_decides() {
        let text = |text| Some(OsStr::new(text));
        assert!(allowed(None, text("xterm")) && allowed(text(""), None));
        assert!(!allowed(text("1"), text("xterm")) && !allowed(None, text("dumb")));
    }
}

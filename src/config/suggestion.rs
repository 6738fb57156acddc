//! Suggestions for values in a common other spelling.

use crate::logging::Level;

/// The boolean that a word is meant to be.
pub(super) fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "t" | "1" | "enable" | "enabled" => Some(true),
        "false" | "no" | "off" | "n" | "f" | "0" | "disable" | "disabled" => Some(false),
        _ => None,
    }
}

/// The log level that a word is meant to be.
pub(super) fn level(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    let level = match word.as_str() {
        "error" | "errors" | "fatal" | "panic" => Level::Err,
        "warn" | "warnings" => Level::Warning,
        "information" | "normal" => Level::Info,
        "trace" | "verbose" | "all" => Level::Debug,
        word => word.parse().ok()?,
    };
    Some(level.as_str())
}

/// How to write the value at this place of a text that is not TOML: a word without quotes.
pub(super) fn bare(text: &str, at: usize) -> Option<String> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..)?.lines().next()?;
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.split('#').next()?.trim());
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !is_word(key) || !is_word(value) || !value.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    match (key, boolean(value)) {
        ("log_level", _) => {
            Some(format!("write log_level = \"{}\"", level(value).unwrap_or("info")))
        }
        (_, Some(on)) => Some(format!("write {key} = {on}")),
        (_, None) => Some(format!("a string has quotation marks: write {key} = \"{value}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_spelling_has_a_suggestion() {
        for (word, on) in [("yes", Some(true)), ("Off", Some(false)), ("maybe", None)] {
            assert_eq!(boolean(word), on, "{word}");
        }
        for (word, meant) in [
            ("warn", Some("warning")),
            ("INFO", Some("info")),
            ("Error", Some("err")),
            ("loud", None),
        ] {
            assert_eq!(level(word), meant, "{word}");
        }
    }

    #[test]
    fn a_word_without_quotation_marks_is_seen() {
        for (text, hint) in [
            ("allow_fuse = yes", "write allow_fuse = true"),
            ("a = 1\nallow_fuse = True # x\n", "write allow_fuse = true"),
            ("log_level = warn", "write log_level = \"warning\""),
            ("privacy = private", "a string has quotation marks: write privacy = \"private\""),
        ] {
            let at = text.rfind('=').unwrap_or_default();
            assert_eq!(bare(text, at).as_deref(), Some(hint), "{text}");
        }
        for text in ["[limits", "a = ", "a = 1x", "x"] {
            assert_eq!(bare(text, text.len()), None, "{text}");
        }
    }
}

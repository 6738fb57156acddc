//! Suggestions for misspelt values.

use crate::logging::Level;

/// Returns the boolean that a word stands for.
pub(super) fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "t" | "1" | "enable" | "enabled" => Some(true),
        "false" | "no" | "off" | "n" | "f" | "0" | "disable" | "disabled" => Some(false),
        _ => None,
    }
}

/// Returns the log level that a word stands for.
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

/// Returns the correct form of a value without quotation marks, which is not valid TOML, at an
/// offset in the text.
pub(super) fn unquoted(text: &str, offset: usize) -> Option<String> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |end| end + 1);
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
    fn a_common_misspelling_has_a_suggestion() {
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
    fn a_word_without_quotation_marks_is_detected() {
        for (text, hint) in [
            ("allow_fuse = yes", "write allow_fuse = true"),
            ("a = 1\nallow_fuse = True # x\n", "write allow_fuse = true"),
            ("log_level = warn", "write log_level = \"warning\""),
            ("privacy = private", "a string has quotation marks: write privacy = \"private\""),
        ] {
            let offset = text.rfind('=').unwrap_or_default();
            assert_eq!(unquoted(text, offset).as_deref(), Some(hint), "{text}");
        }
        for text in ["[limits", "a = ", "a = 1x", "x"] {
            assert_eq!(unquoted(text, text.len()), None, "{text}");
        }
    }
}

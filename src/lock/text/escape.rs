//! Escaping of foreign names for display.
//!
//! File names and VM names occur in error messages, logs and terminals. A newline must not forge a
//! log line, an escape code must not move the cursor, and a bidirectional mark must not make one
//! name look like another. So every character that could have such an effect is escaped.

use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::errno::os_error_description;

/// Whether a character is visible and changes nothing around it.
///
/// Refused: control characters, line and paragraph separators, the bidirectional marks and isolates
/// (Unicode Annex 9), zero-width characters, the tag block and the byte order mark.
#[must_use]
pub fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Escapes everything in a text that is not printable.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_shown(&mut out, text);
    out
}

/// Returns the cause of a failed system call, without its number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => os_error_description(number).to_owned(),
        None => error.to_string(),
    }
}

/// Formats a path for display: escapes as [`shown`] does, and bytes that are not UTF-8 as `\xNN`.
#[must_use]
pub fn shown_path(path: &Path) -> String {
    let mut out = String::with_capacity(path.as_os_str().len());
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        push_shown(&mut out, chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Formats a path as data: exactly if it is UTF-8, which is all that a D-Bus string can contain;
/// otherwise as [`shown_path`] does. Not for display: its content is not escaped.
#[must_use]
pub fn spelt_path(path: &Path) -> String {
    path.to_str().map_or_else(|| shown_path(path), str::to_owned)
}

fn push_shown(out: &mut String, text: &str) {
    for c in text.chars() {
        if is_printable(c) {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn deceptive_characters_are_escaped() {
        assert_eq!(shown("web1 café"), "web1 café");
        assert_eq!(shown("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(shown("\u{202e}gpj.exe"), "\\u{202e}gpj.exe");
        let path = Path::new(OsStr::from_bytes(b"/srv/\xff\xfe/a\tb"));
        assert_eq!(shown_path(path), "/srv/\\xff\\xfe/a\\tb");
    }
}

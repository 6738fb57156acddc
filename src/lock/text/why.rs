//! The reason of an owner for its locks: a text that the caller passes when it opens the owner.
//!
//! The service does not interpret the text. It shows it to callers that are refused a lock, always
//! quoted, so that the text cannot be mistaken for a statement of the service.

use crate::lock::text::escape::{is_printable, shown};

/// The maximum length, in bytes of UTF-8.
pub const WHY_MAX: usize = 200;

/// Checks a text: at most [`WHY_MAX`] bytes, and no character that could deceive a reader of a log
/// or a terminal. The empty text means that there is no reason.
///
/// # Errors
///
/// The error, as a phrase that follows the name of the option.
pub fn check_why(text: &str) -> Result<(), &'static str> {
    if text.len() > WHY_MAX {
        Err("is longer than 200 bytes")
    } else if text.chars().all(is_printable) {
        Ok(())
    } else {
        Err("contains a control, bidirectional or invisible character")
    }
}

/// Formats a text for the parenthesis behind a VM's name in a message: `, why: "nightly backup"`.
/// Empty for the empty text. Quotation marks and backslashes in the text are escaped, so that it
/// ends where the quotation ends.
#[must_use]
pub fn remark(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let mut quoted = String::with_capacity(text.len());
    for c in shown(text).chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    format!(", why: \"{quoted}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_bounded_and_printable() {
        for text in ["", "nightly backup", "Sicherung für Zoë", &"é".repeat(100), "a \"b\" \\"] {
            check_why(text).unwrap();
        }
        for text in ["a\nb", "\u{1b}[2J", "a\u{202e}b", "\u{200b}", "\0", &"x".repeat(201)] {
            assert!(check_why(text).is_err(), "{text:?}");
        }
        assert!(check_why(&"é".repeat(101)).unwrap_err().contains("200 bytes"));
    }

    #[test]
    fn a_text_stays_within_its_quotation() {
        assert_eq!(remark(""), "");
        assert_eq!(remark("nightly backup"), ", why: \"nightly backup\"");
        assert_eq!(remark("x\"), and is free (\""), ", why: \"x\\\"), and is free (\\\"\"");
        assert_eq!(remark("x\\"), ", why: \"x\\\\\"");
    }
}

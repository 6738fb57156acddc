//! The display width of text, in terminal columns: wide characters (CJK, emoji) occupy two,
//! combining characters none.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Replaces the part that was cut.
const ELLIPSIS: &str = "…";

/// Returns the number of columns that a text occupies. Control characters must have been escaped.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// Pads a text with spaces on the right.
pub(crate) fn pad_right(text: &str, columns: usize) -> String {
    format!("{text}{:1$}", "", columns.saturating_sub(width(text)))
}

/// Pads a text with spaces on the left.
pub(crate) fn pad_left(text: &str, columns: usize) -> String {
    format!("{:1$}{text}", "", columns.saturating_sub(width(text)))
}

/// Cuts the end of a text that is wider than `columns`.
pub(crate) fn cut_end(text: &str, columns: usize) -> String {
    match columns {
        _ if width(text) <= columns => text.to_owned(),
        0 => String::new(),
        _ => format!("{}{ELLIPSIS}", head(text, columns - 1)),
    }
}

/// Cuts the middle of a text that is wider than `columns`. The end keeps two thirds of the room,
/// since the end of a path is more specific than its beginning.
pub(crate) fn cut_middle(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let head = head(text, room / 3);
    format!("{head}{ELLIPSIS}{}", tail(text, room - width(head)))
}

/// Returns the longest prefix that fits, with the combining characters of its last character.
fn head(text: &str, columns: usize) -> &str {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let fitting = ends.take_while(|end| width(&text[..*end]) <= columns);
    &text[..fitting.last().unwrap_or_default()]
}

/// Returns the longest suffix that fits. It does not begin with a combining character, whose base
/// would be cut.
fn tail(text: &str, columns: usize) -> &str {
    let begins = text.char_indices().rev().filter(|(_, c)| c.width() != Some(0));
    let fitting = begins.take_while(|(at, _)| width(&text[*at..]) <= columns);
    &text[fitting.last().map_or(text.len(), |(at, _)| at)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_columns() {
        for (text, columns) in [("web1", 4), ("仮想機", 6), ("e\u{301}", 1), ("🦀", 2), ("", 0)]
        {
            assert_eq!(width(text), columns, "{text}");
            assert_eq!(width(&pad_left(text, 8)), 8, "{text}");
            assert_eq!(width(&pad_right(text, 8)), 8, "{text}");
        }
        assert_eq!(pad_right("仮想機", 4), "仮想機");
    }

    #[test]
    fn cut_text_fits() {
        for text in ["/srv/vm/web1.qcow2", "/srv/仮想機/ディスク.qcow2", "e\u{301}e\u{301}e\u{301}"]
        {
            for columns in 0..=width(text) {
                for cut in [cut_end(text, columns), cut_middle(text, columns)] {
                    assert!(width(&cut) <= columns, "{cut:?} in {columns}");
                }
            }
            assert_eq!(cut_middle(text, width(text)), text);
        }
        assert_eq!(cut_middle("/srv/vm/web1.qcow2", 13), "/srv…b1.qcow2");
        assert_eq!(cut_end("/srv/vm/web1.qcow2", 5), "/srv…");
        assert_eq!(cut_middle("ae\u{301}bcde\u{301}", 4), "a…de\u{301}");
    }
}

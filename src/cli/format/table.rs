//! Columns, no wider than what is in them.

use std::fmt;

use crate::cli::format::colour;
use crate::cli::format::width::{pad_left, pad_right, width};
use crate::lock::printable::shown;

/// To which side a column's text leans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lean {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// The heading of the column whose words are coloured where something is wrong.
const STATE: &str = "STATE";
/// The property whose value is coloured where something is wrong.
const LOST: &str = "lost";

/// A table with a heading. A column in which nothing stands is not shown.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [(&'static str, Lean); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// An empty one.
    pub(crate) fn new(columns: [(&'static str, Lean); N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; what could play with the terminal is escaped.
    pub(crate) fn push(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| shown(&cell)));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, colour::wanted())
    }
}

impl<const N: usize> Table<N> {
    fn write(&self, f: &mut impl fmt::Write, coloured: bool) -> fmt::Result {
        let heading = self.columns.map(|(name, _)| name.to_owned());
        let widths: [usize; N] = std::array::from_fn(|n| {
            let cells = std::iter::once(&heading).chain(&self.rows);
            cells.map(|row| width(&row[n])).max().unwrap_or_default()
        });
        let filled: [bool; N] =
            std::array::from_fn(|n| self.rows.iter().any(|row| !row[n].is_empty()));
        for row in std::iter::once(&heading).chain(&self.rows) {
            let cells = row.iter().zip(widths).zip(self.columns).zip(filled);
            let line: String = cells
                .filter_map(|(cell, filled)| filled.then_some(cell))
                .map(|((cell, width), (name, lean))| {
                    let cell = match lean {
                        Lean::Left => pad_right(cell, width),
                        Lean::Right => pad_left(cell, width),
                    };
                    let cell = if coloured && name == STATE { colour::word(&cell) } else { cell };
                    cell + "  "
                })
                .collect();
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Names and values, one pair a line, the values below each other.
pub(crate) fn pairs(pairs: &[(String, String)]) -> String {
    let column = pairs.iter().map(|(name, _)| width(name) + 1).max().unwrap_or_default();
    let line = |(name, value): &(String, String)| {
        let value = shown(value);
        let value = if name == LOST { colour::first_word(&value) } else { value };
        let line = format!("{} {value}", pad_right(&format!("{}:", shown(name)), column));
        format!("{}\n", line.trim_end())
    };
    pairs.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table =
            Table::new([("LOCK", Lean::Right), ("RESOURCE", Lean::Left), ("VM", Lean::Left)]);
        table.push(["3".into(), "/srv/a.qcow2".into(), "wéb1".into()]);
        table.push(["12345".into(), "/b".into(), "x\u{1b}[2J\ny".into()]);
        assert_eq!(
            table.to_string(),
            " LOCK  RESOURCE      VM\n    \
                 3  /srv/a.qcow2  wéb1\n\
             12345  /b            x\\u{1b}[2J\\ny\n"
        );
    }

    #[test]
    fn wide_and_combining_characters_are_aligned() {
        let mut table = Table::new([("VM", Lean::Left), ("PID", Lean::Right)]);
        for name in ["仮想機", "e\u{301}", "web1🦀"] {
            table.push([name.into(), "7".into()]);
        }
        let text = table.to_string();
        assert_eq!(text, "VM      PID\n仮想機    7\ne\u{301}         7\nweb1🦀    7\n");
    }

    #[test]
    fn states_are_coloured_where_that_is_wanted() {
        let mut table = Table::new([("STATE", Lean::Left), ("VM", Lean::Left)]);
        table.push(["LOST".into(), "LOST".into()]);
        let mut text = String::new();
        table.write(&mut text, true).unwrap();
        assert_eq!(text, "STATE  VM\n\x1b[1;31mLOST \x1b[0m  LOST\n");
        assert_eq!(table.to_string(), "STATE  VM\nLOST   LOST\n");
    }

    #[test]
    fn a_column_that_says_nothing_is_not_there() {
        let mut table = Table::new([("LOCK", Lean::Right), ("STATE", Lean::Left)]);
        table.push(["1".into(), String::new()]);
        assert_eq!(table.to_string(), "LOCK\n   1\n");
        table.push(["2".into(), "LOST".into()]);
        assert_eq!(table.to_string(), "LOCK  STATE\n   1\n   2  LOST\n");
    }

    #[test]
    fn pairs_stand_below_each_other() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs(&[pair("Name", "web1"), pair("SinceUSec", "14:03"), pair("Locks", "")]),
            "Name:      web1\nSinceUSec: 14:03\nLocks:\n"
        );
    }
}

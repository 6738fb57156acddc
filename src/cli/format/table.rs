//! Tables and lists of pairs, with columns as wide as their longest cell.

use std::fmt;

use crate::cli::format::width::{pad_left, pad_right, width};
use crate::cli::format::{colour, row};
use crate::client::Row;
use crate::lock::text::escape::shown;

/// The alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alignment {
    /// For text.
    Left,
    /// For numbers.
    Right,
}

/// The heading of the column whose words are coloured.
const STATE: &str = "STATE";
/// The name of the pair whose value is coloured.
const LOST: &str = "lost";

/// A table with a heading. An empty column is not printed.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [(&'static str, Alignment); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Creates a table without rows.
    pub(crate) fn new(columns: [(&'static str, Alignment); N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row. Characters that could control the terminal are escaped.
    pub(crate) fn push(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| shown(&cell)));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, colour::is_enabled())
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
                .map(|((cell, width), (name, alignment))| {
                    let cell = match alignment {
                        Alignment::Left => pad_right(cell, width),
                        Alignment::Right => pad_left(cell, width),
                    };
                    let cell =
                        if coloured && name == STATE { colour::colour_word(&cell) } else { cell };
                    cell + "  "
                })
                .collect();
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Creates a table of locks. The column of numbers is not printed for locks that have none.
pub(crate) fn lock_table(locks: &[Row]) -> Table<3> {
    let mut table = Table::new([
        ("LOCK", Alignment::Right),
        ("MODE", Alignment::Left),
        ("RESOURCE", Alignment::Left),
    ]);
    for lock in locks {
        let word = |key| row::text(lock, key).to_owned();
        table.push([row::lock_number(lock), word("mode"), word("resource")]);
    }
    table
}

/// Formats names and values, one pair a line, with aligned values.
pub(crate) fn pairs(pairs: &[(String, String)]) -> String {
    let column = pairs.iter().map(|(name, _)| width(name) + 1).max().unwrap_or_default();
    let line = |(name, value): &(String, String)| {
        let value = shown(value);
        let value = if name == LOST { colour::colour_first_word(&value) } else { value };
        let line = format!("{} {value}", pad_right(&format!("{}:", shown(name)), column));
        format!("{}\n", line.trim_end())
    };
    pairs.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new([
            ("LOCK", Alignment::Right),
            ("RESOURCE", Alignment::Left),
            ("VM", Alignment::Left),
        ]);
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
        let mut table = Table::new([("VM", Alignment::Left), ("PID", Alignment::Right)]);
        for name in ["仮想機", "e\u{301}", "web1🦀"] {
            table.push([name.into(), "7".into()]);
        }
        let text = table.to_string();
        assert_eq!(text, "VM      PID\n仮想機    7\ne\u{301}         7\nweb1🦀    7\n");
    }

    #[test]
    fn states_are_coloured() {
        let mut table = Table::new([("STATE", Alignment::Left), ("VM", Alignment::Left)]);
        table.push(["LOST".into(), "LOST".into()]);
        let mut text = String::new();
        table.write(&mut text, true).unwrap();
        assert_eq!(text, "STATE  VM\n\x1b[1;31mLOST \x1b[0m  LOST\n");
        assert_eq!(table.to_string(), "STATE  VM\nLOST   LOST\n");
    }

    #[test]
    fn an_empty_column_is_not_printed() {
        let mut table = Table::new([("LOCK", Alignment::Right), ("STATE", Alignment::Left)]);
        table.push(["1".into(), String::new()]);
        assert_eq!(table.to_string(), "LOCK\n   1\n");
        table.push(["2".into(), "LOST".into()]);
        assert_eq!(table.to_string(), "LOCK  STATE\n   1\n   2  LOST\n");
    }

    #[test]
    fn pairs_are_aligned() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs(&[pair("Name", "web1"), pair("SinceUSec", "14:03"), pair("Locks", "")]),
            "Name:      web1\nSinceUSec: 14:03\nLocks:\n"
        );
    }
}

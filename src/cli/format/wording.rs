//! Fits a message about a disk and its holder into one line of a terminal.

use crate::cli::format::width::{cut_end, cut_middle, width};
use crate::lock::text::escape::shown;

/// The minimum width of a path. If less room is left, a shorter wording is used.
const PATH_MIN: usize = 16;

/// One wording of a message: text, a path, and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wording {
    before: String,
    path: String,
    after: String,
}

impl Wording {
    /// Creates a wording. Characters that could control the terminal are escaped.
    pub(crate) fn new(before: &str, path: &str, after: &str) -> Self {
        Self { before: shown(before), path: shown(path), after: shown(after) }
    }

    /// Returns the whole text.
    pub(crate) fn full(&self) -> String {
        format!("{}{}{}", self.before, self.path, self.after)
    }

    /// Returns the text with the path cut so that it fits into `columns`; `None` if too little of
    /// the path would be left.
    fn fit(&self, columns: usize) -> Option<String> {
        let Self { before, path, after } = self;
        let room = columns.checked_sub(width(before) + width(after))?;
        let is_enough = room >= PATH_MIN.min(width(path));
        is_enough.then(|| format!("{before}{}{after}", cut_middle(path, room)))
    }
}

/// Returns a line of at most `columns` columns that ends with `end`: the first of the wordings that
/// fits. The wordings are sorted from the longest to the shortest. If the last one does not fit,
/// its end is cut.
pub(crate) fn fit_line(wordings: &[Wording], end: &str, columns: usize) -> String {
    let end = shown(end);
    let room = columns.saturating_sub(width(&end));
    let text = wordings.iter().find_map(|wording| wording.fit(room));
    let text = text
        .unwrap_or_else(|| cut_end(&wordings.last().map(Wording::full).unwrap_or_default(), room));
    cut_end(&format!("{text}{end}"), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wordings(path: &str) -> [Wording; 3] {
        [
            Wording::new("waiting for disk ", path, ": locked by VM \"web1\" since 14:03"),
            Wording::new("waiting for VM \"web1\" (", path, ")"),
            Wording::new("waiting for VM \"web1\"", "", ""),
        ]
    }

    #[test]
    fn the_path_is_cut_before_a_shorter_wording_is_used() {
        let wordings = wordings("/srv/images/production/web1.qcow2");
        for (columns, line) in [
            (
                100,
                "waiting for disk /srv/images/production/web1.qcow2: locked by VM \"web1\" since \
                 14:03 — 3 s",
            ),
            (76, "waiting for disk /srv/i…on/web1.qcow2: locked by VM \"web1\" since 14:03 — 3 s"),
            (59, "waiting for VM \"web1\" (/srv/imag…oduction/web1.qcow2) — 3 s"),
            (40, "waiting for VM \"web1\" — 3 s"),
            (20, "waiting for V… — 3 s"),
            (4, " — …"),
            (0, ""),
        ] {
            let text = fit_line(&wordings, " — 3 s", columns);
            assert!(width(&text) <= columns, "{text:?} in {columns}");
            assert_eq!(text, line);
        }
    }

    #[test]
    fn wide_characters_occupy_two_columns() {
        let line = fit_line(&wordings(&"/仮想機".repeat(9)), " — 3 s", 59);
        assert!(line.contains("VM \"web1\"") && width(&line) <= 59, "{line:?}");
        let line = fit_line(&[Wording::new("a\x1b[2J", "b\n", "")], "", 20);
        assert_eq!(line, "a\\u{1b}[2Jb\\n");
    }
}

//! Lines of the log that are written together, in one buffer.

use std::mem;

/// The maximum size of the lines of one write, in bytes, unless one line alone is larger.
const MAX_WRITE: usize = 64 << 10;
/// The capacity of an idle buffer, in bytes.
const IDLE_CAPACITY: usize = 16 << 10;

/// Lines that are written together.
#[derive(Debug, Default)]
pub(super) struct LineBatch {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// The number of lines that were dropped after the last one.
    pub(super) dropped_after: u64,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    /// The offset of its end in the buffer.
    end: usize,
    /// The number of lines that were dropped before it.
    dropped_before: u64,
}

/// Lines of a batch without dropped lines between them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineRun<'b> {
    /// The number of lines that were dropped before it.
    pub(super) dropped_before: u64,
    pub(super) bytes: &'b [u8],
    pub(super) lines: usize,
}

impl LineBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns the size of all lines in bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a line, before which `dropped_before` lines were dropped.
    pub(super) fn push(&mut self, line: &[u8], dropped_before: u64) {
        self.bytes.extend_from_slice(line);
        self.lines.push(Line { end: self.bytes.len(), dropped_before });
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
        self.dropped_after = 0;
    }

    /// Frees the memory that a large batch needed.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to(IDLE_CAPACITY);
        self.lines.shrink_to(IDLE_CAPACITY / size_of::<Line>());
    }

    /// Returns all lines, in runs of `max_lines` and [`MAX_WRITE`] at most.
    pub(super) fn runs(&self, max_lines: usize) -> impl Iterator<Item = LineRun<'_>> {
        let (mut lines, mut begin) = (&self.lines[..], 0);
        let mut dropped_after = self.dropped_after;
        std::iter::from_fn(move || {
            let Some((first, rest)) = lines.split_first() else {
                let dropped_before = mem::take(&mut dropped_after);
                return (dropped_before > 0).then_some(LineRun {
                    dropped_before,
                    bytes: &[],
                    lines: 0,
                });
            };
            let fits = |line: &&Line| line.dropped_before == 0 && line.end - begin <= MAX_WRITE;
            let more = rest.iter().take(max_lines.saturating_sub(1)).take_while(fits).count();
            let end = rest[..more].last().unwrap_or(first).end;
            let bytes = &self.bytes[mem::replace(&mut begin, end)..end];
            lines = &rest[more..];
            Some(LineRun { dropped_before: first.dropped_before, bytes, lines: 1 + more })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_bounded_lines_and_bytes() {
        let line = |end, dropped_before| Line { end, dropped_before };
        let bytes = vec![b'x'; 3 * MAX_WRITE];
        let lines = vec![line(1, 0), line(2, 0), line(3, 1), line(3 * MAX_WRITE, 0)];
        let batch = LineBatch { bytes, lines, dropped_after: 7 };
        let sizes = |max_lines| -> Vec<(u64, usize, usize)> {
            let runs = batch.runs(max_lines);
            runs.map(|run| (run.dropped_before, run.bytes.len(), run.lines)).collect()
        };
        let large = 3 * MAX_WRITE - 3;
        assert_eq!(sizes(usize::MAX), [(0, 2, 2), (1, 1, 1), (0, large, 1), (7, 0, 0)]);
        let single = [(0, 1, 1), (0, 1, 1), (1, 1, 1), (0, large, 1), (7, 0, 0)];
        assert_eq!(sizes(1), single);
    }
}

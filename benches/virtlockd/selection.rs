//! The selection on the command line.

use super::server::Kind;

/// The number of measurements of each server.
const ROUNDS: usize = 5;

/// The selected rows and kinds of servers.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) repetitions: usize,
    /// Whether the run takes a fifth of the time, with less exact figures.
    pub(crate) is_quick: bool,
    words: Vec<String>,
    pub(crate) kinds: Vec<Kind>,
}

impl Selection {
    /// Reads the words of the command line: `quick`, `kinds=KIND,…`, and parts of names of rows.
    ///
    /// # Errors
    ///
    /// A message if a word is not a kind.
    pub(crate) fn new(words: impl Iterator<Item = String>) -> Result<Selection, String> {
        let (kinds, words_of_rows) = (Kind::COMPARED.to_vec(), Vec::new());
        let mut selection =
            Selection { repetitions: ROUNDS, is_quick: false, words: words_of_rows, kinds };
        for word in words {
            if word == "quick" {
                (selection.repetitions, selection.is_quick) = (1, true);
            } else if let Some(kinds) = word.strip_prefix("kinds=") {
                let kinds = kinds.split(',').map(Kind::named);
                selection.kinds = kinds.collect::<Result<_, _>>()?;
            } else {
                selection.words.push(word);
            }
        }
        Ok(selection)
    }

    /// Whether rows with this name are selected.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }

    /// Returns a smaller number for a quick run.
    pub(crate) fn number(&self, number: usize) -> usize {
        if self.is_quick { number.div_ceil(4) } else { number }
    }
}

//! Suggestions for mistyped words ("did you mean").

/// The lowest similarity of a suggestion, from 0 to 1.
const MIN_SIMILARITY: f64 = 0.8;

/// Returns the known word that is most similar to `given`, if any is similar enough (Jaro-Winkler).
#[must_use]
pub fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|word| (strsim::jaro_winkler(given, word), *word))
        .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_has_a_suggestion_and_nonsense_has_none() {
        let known = ["force", "timeout-usec", "in-use"];
        assert_eq!(nearest("forse", &known), Some("force"));
        assert_eq!(nearest("timeout_usec", &known), Some("timeout-usec"));
        assert_eq!(nearest("xyz", &known), None);
        assert_eq!(nearest("force", &[]), None);
    }
}

//! The known word that a wrong one was probably meant to be.

/// How alike two words have to be, from 0 to 1.
const ALIKE: f64 = 0.8;

/// Returns the known word that is most like `given`, if one is like it at all.
#[must_use]
pub fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|word| (strsim::jaro_winkler(given, word), *word))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_has_a_nearest_word_and_nonsense_has_none() {
        let known = ["force", "timeout-usec", "in-use"];
        assert_eq!(nearest("forse", &known), Some("force"));
        assert_eq!(nearest("timeout_usec", &known), Some("timeout-usec"));
        assert_eq!(nearest("xyz", &known), None);
        assert_eq!(nearest("force", &[]), None);
    }
}

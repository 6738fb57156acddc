//! The modes of a lock.

use std::fmt;
use std::str::FromStr;

use super::input_error::InputError;

/// The mode of a lock.
///
/// The words are those of the D-Bus API, the command line and the log.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Mode {
    /// Others may hold it too, in the same mode: a disk that several VMs read.
    Shared,
    /// No other owner may hold it: a disk that one VM writes.
    Exclusive,
    /// It is not locked: a disk that is only recorded, for an overview of the disks that VMs use.
    None,
}

impl Mode {
    /// Whether two different owners cannot hold one resource in these two modes at once.
    #[must_use]
    pub fn conflicts(self, other: Self) -> bool {
        self != Self::None
            && other != Self::None
            && (self == Self::Exclusive || other == Self::Exclusive)
    }

    /// Returns the word used on D-Bus and the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
            Self::None => "none",
        }
    }

    /// Returns the word used in a sentence: "is locked exclusively by".
    #[must_use]
    pub fn adverb(self) -> &'static str {
        match self {
            Self::Shared => "in shared mode",
            Self::Exclusive => "exclusively",
            Self::None => "not at all",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = InputError;

    /// Parses a mode that can be requested.
    fn from_str(word: &str) -> Result<Self, InputError> {
        match word {
            "shared" => Ok(Self::Shared),
            "exclusive" => Ok(Self::Exclusive),
            _ => Err(InputError::BadMode(crate::lock::text::escape::shown(word))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_none_conflicts_with_nothing() {
        for mode in [Mode::Shared, Mode::Exclusive, Mode::None] {
            assert!(!mode.conflicts(Mode::None) && !Mode::None.conflicts(mode));
        }
        assert!(Mode::Shared.conflicts(Mode::Exclusive) && !Mode::Shared.conflicts(Mode::Shared));
        assert!("none".parse::<Mode>().is_err());
    }
}

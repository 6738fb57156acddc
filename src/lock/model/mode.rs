//! How a resource is locked.

use std::fmt;
use std::str::FromStr;

use super::error::Error;

/// How a holder shares, or does not share, what it holds.
///
/// The words are those of the D-Bus API, the command line and the log.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Mode {
    /// Others may hold it too, in the same mode: a disk that several machines read.
    Shared,
    /// Nobody else may hold it: a disk that one machine writes.
    Exclusive,
    /// It is not locked at all: a disk that is only recorded, for who looks at what machines use.
    None,
}

impl Mode {
    /// Whether two different owners can not hold one resource in these two modes at once.
    #[must_use]
    pub fn conflicts(self, other: Self) -> bool {
        self != Self::None
            && other != Self::None
            && (self == Self::Exclusive || other == Self::Exclusive)
    }

    /// The word used on the bus and the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
            Self::None => "none",
        }
    }

    /// The word used in a sentence: "is locked exclusively by".
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
    type Err = Error;

    /// A mode that can be asked for.
    fn from_str(word: &str) -> Result<Self, Error> {
        match word {
            "shared" => Ok(Self::Shared),
            "exclusive" => Ok(Self::Exclusive),
            _ => Err(Error::BadMode(crate::lock::text::escape::shown(word))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_recorded_is_in_nobodys_way() {
        for mode in [Mode::Shared, Mode::Exclusive, Mode::None] {
            assert!(!mode.conflicts(Mode::None) && !Mode::None.conflicts(mode));
        }
        assert!(Mode::Shared.conflicts(Mode::Exclusive) && !Mode::Shared.conflicts(Mode::Shared));
        assert!("none".parse::<Mode>().is_err());
    }
}

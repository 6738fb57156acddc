//! Which holders are recorded beside their locks, for other hosts.

use std::str::FromStr;

/// The locks for which holder records are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recording {
    /// All locks on files in lockspaces.
    Lockspaces,
    /// Locks on files in lockspaces and on disks that other hosts may access.
    #[default]
    Shared,
    /// All locks.
    Always,
    /// None.
    Never,
}

impl FromStr for Recording {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "lockspaces" => Ok(Self::Lockspaces),
            "shared" => Ok(Self::Shared),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(()),
        }
    }
}

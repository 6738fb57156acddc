//! Which holders are recorded beside their locks, for other hosts.

use std::str::FromStr;

/// The locks for which holder records are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recording {
    /// Locks on files in lockspaces.
    Lockspaces,
    /// Also direct locks on disks that other hosts may access.
    #[default]
    Shared,
    /// Also direct locks on all other disks.
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

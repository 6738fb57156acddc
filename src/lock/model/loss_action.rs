//! The action on a VM when one of its locks is lost.

use std::str::FromStr;

/// The action on the processes that an owner is bound to when one of its locks is lost, as chosen
/// by its opener: from then on another VM may be writing to the same disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnLost {
    /// None: the loss is reported, and clients may act on the report.
    #[default]
    Notify,
    /// The processes are stopped until an administrator resumes them (`SIGSTOP`, `signal(7)`).
    Pause,
    /// The processes are killed (`SIGKILL`).
    Kill,
}

impl OnLost {
    /// All actions.
    pub const ALL: [Self; 3] = [Self::Notify, Self::Pause, Self::Kill];

    /// Returns the word used on D-Bus, on the command line and in the state file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Pause => "pause",
            Self::Kill => "kill",
        }
    }
}

impl FromStr for OnLost {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|action| action.as_str() == word).ok_or(())
    }
}

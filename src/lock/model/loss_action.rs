//! What becomes of a machine when a lock of its is lost.

use std::str::FromStr;

/// What its owner's opener wants done with the processes that an owner is bound to, once one of its
/// locks is lost: from then on another machine may be writing to the same disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnLost {
    /// Nothing: it is said, and whoever hears it acts.
    #[default]
    Notify,
    /// They are stopped, until somebody lets them go on (`SIGSTOP`, `signal(7)`).
    Pause,
    /// They are killed (`SIGKILL`).
    Kill,
}

impl OnLost {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Notify, Self::Pause, Self::Kill];

    /// The word used on the bus, on the command line and in the state file.
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

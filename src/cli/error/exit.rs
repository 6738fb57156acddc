//! Exit codes of the tool.

use std::process::ExitCode;

/// The way in which the tool ends. The codes from 64 to 78 are those of `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Exits with this code.
    Status(u8),
    /// Is terminated by this signal, as its command was, or as a tool that does not catch the
    /// signal is.
    Signal(i32),
}

impl Exit {
    /// The command succeeded.
    pub(crate) const SUCCESS: Self = Self::Status(0);
    /// Any failure without a code of its own.
    pub(crate) const FAILURE: Self = Self::Status(1);
    /// For `who`: no disk is locked.
    pub(crate) const NOT_LOCKED: Self = Self::Status(3);
    /// The command line is wrong.
    pub(crate) const USAGE: Self = Self::Status(64);
    /// No such disk, owner or lock.
    pub(crate) const MISSING: Self = Self::Status(66);
    /// The service or the bus cannot be reached.
    pub(crate) const UNAVAILABLE: Self = Self::Status(69);
    /// The disk is locked by another owner.
    pub(crate) const LOCKED: Self = Self::Status(75);
    /// The caller is not authorized.
    pub(crate) const DENIED: Self = Self::Status(77);
    /// For `doctor`: no disk is in danger, but there are warnings.
    pub(crate) const WARNINGS: Self = Self::Status(78);
    /// The command of `run` cannot be executed (the convention of shells).
    pub(crate) const NOT_EXECUTABLE: Self = Self::Status(126);
    /// The command of `run` does not exist (the convention of shells).
    pub(crate) const COMMAND_NOT_FOUND: Self = Self::Status(127);

    /// Returns the exit code; for a signal, 128 plus its number, as shells do.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_the_status_that_shells_give_it() {
        assert_eq!(Exit::Signal(2).status(), 130);
        assert_eq!(Exit::LOCKED.status(), 75);
    }
}

//! How the tool ends.

use std::process::ExitCode;

/// How the tool ends. Exit statuses that are not a command's own are from `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// With this exit status.
    Status(u8),
    /// By this signal, as the command did, or as a tool that does not catch it does.
    Signal(i32),
}

impl Code {
    /// Done.
    pub(crate) const SUCCESS: Self = Self::Status(0);
    /// What no other code says.
    pub(crate) const FAILURE: Self = Self::Status(1);
    /// For `who`: no disk is held.
    pub(crate) const FREE: Self = Self::Status(3);
    /// The command line is wrong.
    pub(crate) const USAGE: Self = Self::Status(64);
    /// No such disk, owner or lock.
    pub(crate) const MISSING: Self = Self::Status(66);
    /// The service or the bus is not there.
    pub(crate) const UNAVAILABLE: Self = Self::Status(69);
    /// The disk is locked by another owner.
    pub(crate) const HELD: Self = Self::Status(75);
    /// Not authorized.
    pub(crate) const DENIED: Self = Self::Status(77);
    /// All is well, but it may not stay so.
    pub(crate) const CONFIGURATION: Self = Self::Status(78);
    /// A command that can't be executed, as shells have it.
    pub(crate) const NOT_EXECUTABLE: Self = Self::Status(126);
    /// No such command, as shells have it.
    pub(crate) const NOT_FOUND: Self = Self::Status(127);

    /// The exit status; for a signal, what shells make of it.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_the_status_that_shells_give_it() {
        assert_eq!(Code::Signal(2).status(), 130);
        assert_eq!(Code::HELD.status(), 75);
    }
}

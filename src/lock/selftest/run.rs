//! The subprocess that tests the locks of a file system, on a scratch file of its own.
//!
//! A file system that does not respond blocks every request to it. A subprocess can be abandoned
//! then, a thread cannot. The subprocess is this very program, started again with [`ARGUMENT`] and
//! a directory. It starts the program once more as its peer, the other process that a lock has to
//! exclude ([`peer`]). It prints a line for each step as soon as that is done, and so reports its
//! progress even if it hangs.
//!
//! The scratch file has a random name that begins with a dot, which no lock file has. It is removed
//! at the end; an abandoned subprocess removes it, too, as soon as it can.

mod peer;
mod scratch;
mod steps;

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use rustix::io::Errno;

use crate::lock::path::subprocess::parse_errno;

/// The first argument of the subprocess; the directory follows.
pub const ARGUMENT: &str = "--try-locks";

/// The steps, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The directory exists and can be opened.
    Open,
    /// A file can be created in it.
    Make,
    /// Locks of two open files of one process conflict.
    Files,
    /// Locks of two processes conflict.
    Processes,
    /// OFD and POSIX locks conflict, both ways.
    Kinds,
    /// A byte is free after an unlock or a close, and nothing else is.
    Free,
    /// A shared lock can be upgraded, and an exclusive one downgraded.
    Change,
    /// A name leads to the file that was created or renamed to it, and to no replaced one.
    Names,
    /// The file can be removed.
    Remove,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::Make,
        Self::Files,
        Self::Processes,
        Self::Kinds,
        Self::Free,
        Self::Change,
        Self::Names,
        Self::Remove,
    ];

    /// Returns the name of the step.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Make => "make",
            Self::Files => "files",
            Self::Processes => "processes",
            Self::Kinds => "kinds",
            Self::Free => "free",
            Self::Change => "change",
            Self::Names => "names",
            Self::Remove => "remove",
        }
    }

    /// Returns what the step does, in words that follow "cannot".
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::Open => "open the directory",
            Self::Make => "create a file in it",
            Self::Files => "lock a file twice in one process",
            Self::Processes => "lock a file in two processes",
            Self::Kinds => "lock a file by POSIX and OFD locks",
            Self::Free => "unlock and close a file",
            Self::Change => "change the mode of a lock",
            Self::Names => "replace a file",
            Self::Remove => "remove a file",
        }
    }

    /// Returns the property that holds if the step has passed.
    #[must_use]
    pub fn property(self) -> &'static str {
        match self {
            Self::Open => "the directory can be opened",
            Self::Make => "a file can be created in it",
            Self::Files => "two descriptors in one process conflict",
            Self::Processes => "two processes conflict",
            Self::Kinds => "POSIX and OFD locks conflict",
            Self::Free => "unlocking or closing a file releases its lock, and no other",
            Self::Change => "a lock can be upgraded and downgraded",
            Self::Names => "a replaced file is detected",
            Self::Remove => "the file can be removed",
        }
    }

    /// Whether it tests files and their names, and not locks.
    #[must_use]
    pub fn is_about_names(self) -> bool {
        matches!(self, Self::Names | Self::Remove)
    }

    fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == word)
    }
}

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// A lock did not conflict where it has to, or conflicted where it must not.
    Wrong(String),
    /// The file system does not support locks.
    NoLocks(Errno),
    /// Another operation failed.
    Failed(Errno),
}

/// One line of the output of the subprocess.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The directory that it has open, by device and inode, and the number of its mount.
    Directory(u64, u64, u64),
    /// The owner of the file that it has created.
    Created(u32),
    /// Whether the kernel lists a lock on the file as its own. On a FUSE mount it does so only if
    /// it does not send locks to the server (`fs/fuse/file.c`, `fuse_file_lock`).
    KeptByKernel(bool),
    /// A step is done.
    Done(Step, Outcome),
    /// All steps are done.
    End,
}

impl Line {
    /// Parses a line; `None` if it is invalid.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "there" => {
                let mut numbers = rest.split(' ').map(str::parse);
                let mut next = || numbers.next()?.ok();
                Some(Self::Directory(next()?, next()?, next()?))
            }
            "made" => rest.parse().ok().map(Self::Created),
            "kept" if rest == "yes" => Some(Self::KeptByKernel(true)),
            "kept" if rest == "no" => Some(Self::KeptByKernel(false)),
            "kept" => None,
            "end" if rest.is_empty() => Some(Self::End),
            word => {
                let step = Step::named(word)?;
                let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                Some(Self::Done(
                    step,
                    match word {
                        "passed" if rest.is_empty() => Outcome::Passed,
                        "wrong" => Outcome::Wrong(rest.to_owned()),
                        "no-locks" => Outcome::NoLocks(parse_errno(rest)?),
                        "failed" => Outcome::Failed(parse_errno(rest)?),
                        _ => return None,
                    },
                ))
            }
        }
    }

    fn to_line(&self) -> String {
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Directory(dev, ino, mount) => writeln!(line, "there {dev} {ino} {mount}"),
            Self::Created(uid) => writeln!(line, "made {uid}"),
            Self::KeptByKernel(kept) => writeln!(line, "kept {}", if *kept { "yes" } else { "no" }),
            Self::End => writeln!(line, "end"),
            Self::Done(step, outcome) => match outcome {
                Outcome::Passed => writeln!(line, "{} passed", step.as_str()),
                Outcome::Wrong(how) => writeln!(line, "{} wrong {how}", step.as_str()),
                Outcome::NoLocks(errno) => {
                    writeln!(line, "{} no-locks {}", step.as_str(), errno.raw_os_error())
                }
                Outcome::Failed(errno) => {
                    writeln!(line, "{} failed {}", step.as_str(), errno.raw_os_error())
                }
            },
        };
        line
    }
}

/// Runs the subprocess or its peer if the arguments request one of these; otherwise `None`.
///
/// Must be called before any other use of the command line.
#[must_use]
pub fn main(arguments: &[OsString]) -> Option<ExitCode> {
    let [_, word, path] = arguments else { return None };
    let path = Path::new(path);
    if word == OsStr::new(ARGUMENT) {
        // A write error means that the service has abandoned this process. The scratch file is
        // removed all the same.
        steps::try_all(path, |line| {
            let _ = io::stdout().write_all(line.to_line().as_bytes());
        });
        Some(ExitCode::SUCCESS)
    } else if word == OsStr::new(peer::ARGUMENT) {
        peer::run(path, io::stdin().lock(), io::stdout());
        Some(ExitCode::SUCCESS)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        let outcomes = [
            Outcome::Passed,
            Outcome::Wrong("two of them got it".to_owned()),
            Outcome::NoLocks(Errno::NOLCK),
            Outcome::Failed(Errno::IO),
        ];
        let done = outcomes.into_iter().flat_map(|outcome| {
            Step::ALL.into_iter().map(move |step| Line::Done(step, outcome.clone()))
        });
        let others = [Line::Directory(1, 2, 3), Line::Created(65534), Line::End];
        let kept = [true, false].map(Line::KeptByKernel);
        for line in done.chain(others).chain(kept) {
            let text = line.to_line();
            assert_eq!(Line::parse(text.trim_end()), Some(line), "{text}");
        }
    }

    #[test]
    fn invalid_lines_are_rejected() {
        for line in
            ["", "x", "end now", "there 1 2", "made -1", "files", "files perhaps", "made", "kept x"]
        {
            assert_eq!(Line::parse(line), None, "{line}");
        }
        assert!(main(&["vmlockd".into(), "--version".into()]).is_none());
        assert!(main(&["vmlockd".into(), "--config".into(), "/x".into()]).is_none());
    }
}

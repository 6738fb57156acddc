//! Trying what locks on a file system are worth, on a scratch file of our own.
//!
//! A process of its own does that, since a file system that does not answer keeps whoever asks it: a
//! process can be left behind, a thread can't. It is this very program, started anew with
//! [`ARGUMENT`] and a directory, and starts itself once more as the other process that a lock has to
//! be in the way of ([`peer`]). It prints a line for each step as soon as that is done, and so tells
//! how far it came even where it hangs.
//!
//! The scratch file has a random name that begins with a dot, which no lock file has, and is removed
//! at the end; also by a process that was left behind, as soon as it can.

mod peer;
mod scratch;
mod steps;

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;

/// The first argument of the process that tries; the directory follows.
pub const ARGUMENT: &str = "--try-locks";

/// What is tried, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The directory is there and can be opened.
    Open,
    /// A file can be made in it.
    Make,
    /// Two open files of one process are in each other's way.
    Files,
    /// Two processes are.
    Processes,
    /// Locks of both kinds are, both ways.
    Kinds,
    /// What is unlocked or closed is free, and nothing else is.
    Free,
    /// A shared lock can be strengthened, and an exclusive one weakened.
    Change,
    /// What is opened by a name is what the name stands for, and what replaced it is not.
    Names,
    /// The file can be removed.
    Remove,
}

impl Step {
    /// All of them.
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

    /// In a word.
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
    pub fn deed(self) -> &'static str {
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

    /// What is so where it passed.
    #[must_use]
    pub fn promise(self) -> &'static str {
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

    /// Whether it is about files and their names, and not about locks.
    #[must_use]
    pub fn is_about_names(self) -> bool {
        matches!(self, Self::Names | Self::Remove)
    }

    fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == word)
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it has to be.
    Passed,
    /// A lock was in nobody's way, or in the wrong one's.
    Wrong(String),
    /// The file system has no locks to give.
    NoLocks(Errno),
    /// It failed at something else.
    Failed(Errno),
}

/// One line of what the process prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Which directory it has open, device and inode, and the number of the mount that it is on.
    There(u64, u64, u64),
    /// To whom the file belongs that it has made.
    Made(u32),
    /// Whether the kernel lists a lock on the file as its own. On a FUSE mount it does so only where
    /// it does not ask the server for locks (`fs/fuse/file.c`, `fuse_file_lock`).
    Kept(bool),
    /// A step is done.
    Done(Step, Outcome),
    /// All of them are.
    End,
}

impl Line {
    /// Reads a line; `None` for what is none.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let errno = |text: &str| text.parse().ok().map(Errno::from_raw);
        match word {
            "there" => {
                let mut numbers = rest.split(' ').map(str::parse);
                let mut next = || numbers.next()?.ok();
                Some(Self::There(next()?, next()?, next()?))
            }
            "made" => rest.parse().ok().map(Self::Made),
            "kept" if rest == "yes" => Some(Self::Kept(true)),
            "kept" if rest == "no" => Some(Self::Kept(false)),
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
                        "no-locks" => Outcome::NoLocks(errno(rest)?),
                        "failed" => Outcome::Failed(errno(rest)?),
                        _ => return None,
                    },
                ))
            }
        }
    }

    fn spelt(&self) -> String {
        let mut line = String::new();
        // Writing to a String has no way to fail.
        let _ = match self {
            Self::There(dev, ino, mount) => writeln!(line, "there {dev} {ino} {mount}"),
            Self::Made(uid) => writeln!(line, "made {uid}"),
            Self::Kept(kept) => writeln!(line, "kept {}", if *kept { "yes" } else { "no" }),
            Self::End => writeln!(line, "end"),
            Self::Done(step, outcome) => match outcome {
                Outcome::Passed => writeln!(line, "{} passed", step.as_str()),
                Outcome::Wrong(how) => writeln!(line, "{} wrong {how}", step.as_str()),
                Outcome::NoLocks(errno) => {
                    writeln!(line, "{} no-locks {}", step.as_str(), *errno as i32)
                }
                Outcome::Failed(errno) => {
                    writeln!(line, "{} failed {}", step.as_str(), *errno as i32)
                }
            },
        };
        line
    }
}

/// Does what a process is for that was started to try locks. `None`: this is none.
///
/// To be asked before anything else looks at the command line.
#[must_use]
pub fn main(arguments: &[OsString]) -> Option<ExitCode> {
    let [_, word, path] = arguments else { return None };
    let path = Path::new(path);
    if word == OsStr::new(ARGUMENT) {
        // Who has stopped listening has given up; what was made is removed all the same.
        steps::try_all(path, |line| {
            let _ = io::stdout().write_all(line.spelt().as_bytes());
        });
        Some(ExitCode::SUCCESS)
    } else if word == OsStr::new(peer::ARGUMENT) {
        peer::stand(path, io::stdin().lock(), io::stdout());
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
            Outcome::NoLocks(Errno::ENOLCK),
            Outcome::Failed(Errno::EIO),
        ];
        let done = outcomes.into_iter().flat_map(|outcome| {
            Step::ALL.into_iter().map(move |step| Line::Done(step, outcome.clone()))
        });
        let others = [Line::There(1, 2, 3), Line::Made(65534), Line::End];
        let kept = [true, false].map(Line::Kept);
        for line in done.chain(others).chain(kept) {
            let spelt = line.spelt();
            assert_eq!(Line::parse(spelt.trim_end()), Some(line), "{spelt}");
        }
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in
            ["", "x", "end now", "there 1 2", "made -1", "files", "files perhaps", "made", "kept x"]
        {
            assert_eq!(Line::parse(line), None, "{line}");
        }
        assert!(main(&["vmlockd".into(), "--version".into()]).is_none());
        assert!(main(&["vmlockd".into(), "--config".into(), "/x".into()]).is_none());
    }
}

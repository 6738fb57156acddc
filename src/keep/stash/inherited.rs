//! Descriptors that this process inherited at its start.
//!
//! They come from the service manager's store or, after a re-execution, from the program that this
//! one replaced ([`super::exec`]). Both pass names for the descriptors: the manager in
//! `$LISTEN_FDNAMES` (`sd_listen_fds(3)`), the previous program in `$VMLOCKD_INHERITED`. No other
//! descriptor is ever used.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

use super::policy::Policy;
use crate::keep::Error;

/// The environment variable that names the inherited descriptors for the next program:
/// `<pid>:<name>=<number>,…`.
pub const VARIABLE: &str = "VMLOCKD_INHERITED";
/// The name of the lock on the runtime directory.
pub(super) const LOCK: &str = "lock";
/// The name of virtlockd's socket: `FileDescriptorName=` of its unit.
pub(super) const SOCKET: &str = "virtlockd";
/// The name of a socket that was passed without a name (`sd_listen_fds(3)`).
const UNNAMED: &str = "unknown";

/// The name of a pair, the end that messages are written to, and the end that has the queue.
type WholePair = (String, OwnedFd, OwnedFd);

/// The inherited descriptors.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The lock on the runtime directory.
    pub lock: Option<OwnedFd>,
    /// virtlockd's socket.
    pub socket: Option<OwnedFd>,
    /// The ends of socket pairs by the name of the pair: the end that messages are written to, and
    /// the end that has the queue.
    pub(super) pairs: BTreeMap<String, (Option<OwnedFd>, Option<OwnedFd>)>,
}

impl Inherited {
    /// Returns the descriptors that were passed to this process. From the second call on, the
    /// result is empty.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if a descriptor that was announced is not open.
    pub fn take() -> Result<Self, Error> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut inherited = Self::default();
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Ok(inherited);
        }
        let announced = match announced() {
            Some(announced) => announced,
            None => sd_notify::listen_fds_with_names()
                .map_err(Error::system("take over the descriptors of the service manager"))?
                .map(|(number, name)| (name, number))
                .collect(),
        };
        for (name, number) in announced {
            inherited.add(&name, number)?;
        }
        Ok(inherited)
    }

    /// Returns whether no socket pair was inherited, so the stash is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Removes and returns the pairs whose names begin with `prefix`, and the names of those with a
    /// single end. Their creation was interrupted, so their queues are empty.
    pub(super) fn take_pairs(&mut self, prefix: &str) -> (Vec<WholePair>, Vec<String>) {
        let all = std::mem::take(&mut self.pairs);
        let (mut whole, mut halves) = (Vec::new(), Vec::new());
        for (name, ends) in all {
            if !name.starts_with(prefix) {
                self.pairs.insert(name, ends);
            } else if let (Some(into), Some(out)) = ends {
                whole.push((name, into, out));
            } else {
                halves.push(name);
            }
        }
        (whole, halves)
    }

    fn add(&mut self, name: &str, number: RawFd) -> Result<(), Error> {
        if name == LOCK {
            self.lock = Some(own(number)?);
            return Ok(());
        }
        if name == SOCKET || name == UNNAMED {
            self.socket = Some(own(number)?);
            return Ok(());
        }
        // Unknown descriptors stay as they are.
        let mut prefixes = Policy::ALL.iter().map(|policy| policy.prefix());
        if !prefixes.any(|prefix| name.strip_prefix(prefix).is_some_and(begins_with_digit)) {
            return Ok(());
        }
        if let Some(pair) = name.strip_suffix('i') {
            self.pairs.entry(pair.to_owned()).or_default().0 = Some(own(number)?);
        } else if let Some(pair) = name.strip_suffix('o') {
            self.pairs.entry(pair.to_owned()).or_default().1 = Some(own(number)?);
        }
        Ok(())
    }
}

fn begins_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Returns the names and numbers that the program announced which this one replaced.
fn announced() -> Option<Vec<(String, RawFd)>> {
    let text = std::env::var(VARIABLE).ok()?;
    let (pid, list) = text.split_once(':')?;
    // The variable was meant for another process.
    if pid.parse() != Ok(std::process::id()) {
        return None;
    }
    let parse = |item: &str| {
        let (name, number) = item.split_once('=')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    list.split(',').filter(|item| !item.is_empty()).map(parse).collect()
}

/// Turns the number of an inherited descriptor into an owned descriptor with `FD_CLOEXEC`.
#[allow(unsafe_code)]
fn own(number: RawFd) -> Result<OwnedFd, Error> {
    if number <= 2 {
        let cause = std::io::Error::other(format!("descriptor {number} is missing"));
        return Err(Error::System { doing: "take over descriptors", cause });
    }
    // SAFETY: the parent process announced the number as inherited. `Inherited::take` reads the
    // announcement once per process, before anything else is opened, so nothing else in this
    // process owns the descriptor. The next line fails if it is not open.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl_setfd(&fd, FdFlags::CLOEXEC) {
        Ok(()) => Ok(fd),
        Err(errno) => {
            // The number is not open, so it must not be closed.
            std::mem::forget(fd);
            Err(Error::system("take over descriptors")(errno))
        }
    }
}

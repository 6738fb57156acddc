//! Descriptors that this process did not open itself.
//!
//! They come from the service manager's store, or, after the program has replaced itself, from
//! the program before. Either says which is which: the manager in `$LISTEN_FDNAMES`
//! (`sd_listen_fds(3)`), the program before in a variable of our own. Nothing else is ever taken.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::Error;

/// Tells the next program what it inherits: `<pid>:<name>=<number>,…`.
pub const VARIABLE: &str = "VMLOCKD_INHERITED";
/// The name of the lock on the runtime directory.
const LOCK: &str = "lock";

/// The name of the end of a pair that is written to. Short, since all names together go into one
/// string of the environment.
pub(super) fn name_into(number: u64) -> String {
    format!("p{number}i")
}

/// The name of the end with the queue.
pub(super) fn name_out(number: u64) -> String {
    format!("p{number}o")
}

/// What was inherited.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The lock on the runtime directory.
    pub lock: Option<OwnedFd>,
    /// The ends of socket pairs, by the pair's number: written to, and with the queue.
    pub(super) pairs: BTreeMap<u64, (Option<OwnedFd>, Option<OwnedFd>)>,
}

impl Inherited {
    /// Takes what was passed to this process; a second time there is nothing.
    ///
    /// # Errors
    ///
    /// Where a descriptor that was announced is none.
    pub fn take() -> Result<Self, Error> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut inherited = Self::default();
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Ok(inherited);
        }
        let announced = match announced() {
            Some(announced) => announced,
            None => sd_notify::listen_fds_with_names()
                .map_err(Error::system("taking what the service manager passes"))?
                .map(|(number, name)| (name, number))
                .collect(),
        };
        for (name, number) in announced {
            inherited.sort(&name, number)?;
        }
        Ok(inherited)
    }

    /// Whether anything is parked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn sort(&mut self, name: &str, number: RawFd) -> Result<(), Error> {
        let pair = name.strip_prefix('p').and_then(|rest| rest.split_at_checked(rest.len() - 1));
        let pair = pair.and_then(|(pair, end)| Some((pair.parse::<u64>().ok()?, end)));
        // What we don't know we leave alone.
        match (name, pair) {
            (LOCK, _) => self.lock = Some(own(number)?),
            (_, Some((pair, "i"))) => self.pairs.entry(pair).or_default().0 = Some(own(number)?),
            (_, Some((pair, "o"))) => self.pairs.entry(pair).or_default().1 = Some(own(number)?),
            _ => {}
        }
        Ok(())
    }
}

/// What the program before this one left.
fn announced() -> Option<Vec<(String, RawFd)>> {
    let text = std::env::var(VARIABLE).ok()?;
    let (pid, list) = text.split_once(':')?;
    // Of another process: then it says nothing about our descriptors.
    if pid.parse() != Ok(std::process::id()) {
        return None;
    }
    let one = |item: &str| {
        let (name, number) = item.split_once('=')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    list.split(',').filter(|item| !item.is_empty()).map(one).collect()
}

/// Makes a descriptor ours.
#[allow(unsafe_code)]
fn own(number: RawFd) -> Result<OwnedFd, Error> {
    if number <= 2 {
        let cause = std::io::Error::other(format!("descriptor {number} was announced"));
        return Err(Error::System { doing: "taking over descriptors", cause });
    }
    // SAFETY: whoever started this process says that the number is ours to have, and that is
    // believed once per process, before anything else is opened: so nobody else here owns it.
    // That it is open at all is seen to by the next line, which fails on any other number.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(fd),
        Err(errno) => {
            // Nothing to close.
            std::mem::forget(fd);
            Err(Error::system("taking over descriptors")(errno))
        }
    }
}

/// Lets descriptors live on in the program that replaces this one, and says how to tell it: the
/// value of [`VARIABLE`].
///
/// # Errors
///
/// Where a descriptor can't be passed on; those before it are then passed on to whatever is
/// executed next, so nothing should be, or [`keep_back`] be called first.
pub(super) fn hand_down<'f>(
    what: impl Iterator<Item = (String, BorrowedFd<'f>)>,
) -> Result<String, Error> {
    let mut text = format!("{}:", std::process::id());
    for (name, fd) in what {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(Error::system("passing a descriptor on"))?;
        // Writing to a String has no way to fail.
        let _ = write!(text, "{name}={},", fd.as_raw_fd());
    }
    Ok(text)
}

/// The name under which the lock on the runtime directory is passed on.
pub(super) fn name_lock() -> String {
    LOCK.to_owned()
}

/// Undoes [`hand_down`]: the descriptors are this program's alone again.
pub(super) fn keep_back<'f>(what: impl Iterator<Item = BorrowedFd<'f>>) -> Result<(), Error> {
    for fd in what {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(Error::system("keeping a descriptor back"))?;
    }
    Ok(())
}

//! Passing the stash to the program that replaces this one by `execve(2)`, and back.

use std::fmt::Write as _;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::{FdFlags, fcntl_setfd};

use super::Stash;
use super::inherited::{Inherited, LOCK, SOCKET};
use super::pair::{SocketPair, name_into, name_out};
use crate::keep::Error;

/// The descriptors of the program itself that its replacement inherits besides the stash.
#[derive(Debug, Clone, Copy)]
pub struct OwnDescriptors<'f> {
    /// The lock on the runtime directory.
    pub lock: BorrowedFd<'f>,
    /// virtlockd's socket.
    pub socket: Option<BorrowedFd<'f>>,
}

/// Makes the stash and `own` inheritable for the program that replaces this one. Returns the value
/// of [`VARIABLE`](super::inherited::VARIABLE) for that program.
///
/// # Errors
///
/// [`Error::System`] if a descriptor cannot be passed on; no descriptor is inheritable then.
pub fn prepare_exec(stash: &Stash, own: OwnDescriptors<'_>) -> Result<String, Error> {
    let mut text = format!("{}:", std::process::id());
    let mut pass = |name: &str, fd: BorrowedFd<'_>| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{name}={},", fd.as_raw_fd());
        fcntl_setfd(fd, FdFlags::empty())
    };
    let mut outcome = pass(LOCK, own.lock);
    if let Some(socket) = own.socket {
        outcome = outcome.and(pass(SOCKET, socket));
    }
    stash.for_each_pair(|pair: &SocketPair| {
        let names = [name_into(&pair.name), name_out(&pair.name)];
        for (name, end) in names.iter().zip(pair.ends()) {
            outcome = outcome.and(pass(name, end));
        }
    });
    if let Err(errno) = outcome {
        cancel_exec(stash, own)?;
        return Err(Error::system("pass on a descriptor")(errno));
    }
    Ok(text)
}

/// Undoes [`prepare_exec`]: no other program inherits the descriptors any more.
///
/// # Errors
///
/// [`Error::System`] if that fails: the next program that this process executes would inherit them.
pub fn cancel_exec(stash: &Stash, own: OwnDescriptors<'_>) -> Result<(), Error> {
    let keep = |fd: BorrowedFd<'_>| fcntl_setfd(fd, FdFlags::CLOEXEC);
    let mut outcome = keep(own.lock);
    if let Some(socket) = own.socket {
        outcome = outcome.and(keep(socket));
    }
    stash.for_each_pair(|pair: &SocketPair| {
        for end in pair.ends() {
            outcome = outcome.and(keep(end));
        }
    });
    outcome.map_err(Error::system("keep a descriptor from being inherited"))
}

/// Returns a snapshot of what the next service would inherit if this one were killed now: copies of
/// both ends of every pair, as the service manager has them.
///
/// A test that takes the snapshot and then drops the service simulates a crash within one process,
/// some hundred thousand times in a run.
///
/// # Errors
///
/// [`Error::System`] if no more descriptors can be opened.
pub fn crash_snapshot(stash: &Stash) -> Result<Inherited, Error> {
    let (mut inherited, mut outcome) = (Inherited::default(), Ok(()));
    stash.for_each_pair(|pair: &SocketPair| {
        let [into, out] = pair.ends().map(|end| end.try_clone_to_owned());
        match (into, out) {
            (Ok(into), Ok(out)) => {
                inherited.pairs.insert(pair.name.clone(), (Some(into), Some(out)));
            }
            (Err(error), _) | (_, Err(error)) => outcome = Err(error),
        }
    });
    outcome.map_err(Error::system("duplicate a descriptor"))?;
    Ok(inherited)
}

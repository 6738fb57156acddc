//! Descriptors that this process did not open itself.
//!
//! They come from the service manager's store, or, after the program has replaced itself, from
//! the program before. Either says which is which: the manager in `$LISTEN_FDNAMES`
//! (`sd_listen_fds(3)`), the program before in a variable of our own. Nothing else is ever taken.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

use super::pair::Pair;
use super::{Error, Far, Parking, parking};

/// Tells the next program what it inherits: `<pid>:<name>=<number>,…`.
pub const VARIABLE: &str = "VMLOCKD_INHERITED";
/// The name of the lock on the runtime directory.
const LOCK: &str = "lock";
/// The name of virtlockd's socket: `FileDescriptorName=` of its unit.
const SOCKET: &str = "virtlockd";
/// What a socket is called that was passed without a name (`sd_listen_fds(3)`).
const UNNAMED: &str = "unknown";

/// The name of the end of a pair that is written to. Short, since all names together go into one
/// string of the environment.
pub(super) fn name_into(pair: &str) -> String {
    format!("{pair}i")
}

/// The name of the end with the queue.
pub(super) fn name_out(pair: &str) -> String {
    format!("{pair}o")
}

/// A pair's name and ends.
type WholePair = (String, OwnedFd, OwnedFd);

/// What was inherited.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The lock on the runtime directory.
    pub lock: Option<OwnedFd>,
    /// virtlockd's socket.
    pub socket: Option<OwnedFd>,
    /// The ends of socket pairs, by the pair's name: written to, and with the queue.
    pub(super) pairs: BTreeMap<String, (Option<OwnedFd>, Option<OwnedFd>)>,
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
                .map_err(Error::system("take over the descriptors of the service manager"))?
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

    /// Takes the pairs out whose names begin like this; and the names of those of which there is one
    /// end only: they were being made, and nothing was in them.
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

    fn sort(&mut self, name: &str, number: RawFd) -> Result<(), Error> {
        if name == LOCK {
            self.lock = Some(own(number)?);
            return Ok(());
        }
        if name == SOCKET || name == UNNAMED {
            self.socket = Some(own(number)?);
            return Ok(());
        }
        // What we don't know we leave alone.
        let pairs = [parking::PREFIX, Far::PREFIX];
        if !pairs.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(begins_with_digit)) {
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
        let cause = std::io::Error::other(format!("descriptor {number} is missing"));
        return Err(Error::System { doing: "take over descriptors", cause });
    }
    // SAFETY: whoever started this process says that the number is ours to have, and that is
    // believed once per process, before anything else is opened: so nobody else here owns it.
    // That it is open at all is seen to by the next line, which fails on any other number.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl_setfd(&fd, FdFlags::CLOEXEC) {
        Ok(()) => Ok(fd),
        Err(errno) => {
            // Nothing to close.
            std::mem::forget(fd);
            Err(Error::system("take over descriptors")(errno))
        }
    }
}

/// What of a running program's own lives on in the one that replaces it.
#[derive(Debug, Clone, Copy)]
pub struct Legacy<'f> {
    /// The lock on the runtime directory.
    pub lock: BorrowedFd<'f>,
    /// virtlockd's socket.
    pub socket: Option<BorrowedFd<'f>>,
}

/// Lets all that is parked live on in the program that replaces this one, with what is the
/// program's own, and says how to tell it: the value of [`VARIABLE`].
///
/// # Errors
///
/// Where a descriptor can't be passed on; nothing is passed on then.
pub fn hand_down(parking: &Parking, far: &Far, legacy: Legacy<'_>) -> Result<String, Error> {
    let mut text = format!("{}:", std::process::id());
    let mut pass = |name: &str, fd: BorrowedFd<'_>| {
        // Writing to a String has no way to fail.
        let _ = write!(text, "{name}={},", fd.as_raw_fd());
        fcntl_setfd(fd, FdFlags::empty())
    };
    let mut outcome = pass(LOCK, legacy.lock);
    if let Some(socket) = legacy.socket {
        outcome = outcome.and(pass(SOCKET, socket));
    }
    let mut pass_pair = |pair: &Pair| {
        let names = [name_into(&pair.name), name_out(&pair.name)];
        for (name, end) in names.iter().zip(pair.ends()) {
            outcome = outcome.and(pass(name, end));
        }
    };
    parking.each(&mut pass_pair);
    far.each(&mut pass_pair);
    if let Err(errno) = outcome {
        keep_back(parking, far, legacy)?;
        return Err(Error::system("pass on a descriptor")(errno));
    }
    Ok(text)
}

/// What the next service would find if this one were killed now: both ends of every pair once more,
/// as the service manager has them, and nothing else. Whoever asks for it and then drops the
/// service has had it killed within one process, and so can do that some hundred thousand times.
///
/// # Errors
///
/// Where descriptors have run out.
pub fn left_behind(parking: &Parking, far: &Far) -> Result<Inherited, Error> {
    let (mut inherited, mut outcome) = (Inherited::default(), Ok(()));
    let mut copy = |pair: &Pair| {
        let [into, out] = pair.ends().map(|end| end.try_clone_to_owned());
        match (into, out) {
            (Ok(into), Ok(out)) => {
                inherited.pairs.insert(pair.name.clone(), (Some(into), Some(out)));
            }
            (Err(error), _) | (_, Err(error)) => outcome = Err(error),
        }
    };
    parking.each(&mut copy);
    far.each(&mut copy);
    outcome.map_err(Error::system("duplicate a descriptor"))?;
    Ok(inherited)
}

/// Undoes [`hand_down`]: the descriptors are this program's alone again.
///
/// # Errors
///
/// Where that can't be done: then they would be inherited by whatever is executed next.
pub fn keep_back(parking: &Parking, far: &Far, legacy: Legacy<'_>) -> Result<(), Error> {
    let keep = |fd: BorrowedFd<'_>| fcntl_setfd(fd, FdFlags::CLOEXEC);
    let mut outcome = keep(legacy.lock);
    if let Some(socket) = legacy.socket {
        outcome = outcome.and(keep(socket));
    }
    let mut keep_pair = |pair: &Pair| {
        for end in pair.ends() {
            outcome = outcome.and(keep(end));
        }
    };
    parking.each(&mut keep_pair);
    far.each(&mut keep_pair);
    outcome.map(drop).map_err(Error::system("keep a descriptor from being inherited"))
}

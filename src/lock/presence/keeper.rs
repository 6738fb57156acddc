//! The process that keeps a host's file locked: a file that is open on a file system that has died
//! would hold up the end of whoever has it open, and that must not be the service.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::appear;

/// After how many milliseconds it tries again while somebody else has the file: mostly the one before it, who is about to go.
const AGAIN: u16 = 200;
/// After how many times it says so.
const SOON: usize = 25;
/// The longest that it is told.
const TALK: u64 = 16 << 10;

/// What it says once the file is locked.
pub const KEPT: &str = "kept";
/// What it says once somebody else has it for too long; it goes on trying.
pub const TAKEN: &str = "taken";

/// What the process does, until whoever started it ends or lets go of it: it is told the host's id and
/// what the host tells, a line each, and says what came of it, or why nothing did.
///
/// # Errors
///
/// Where it can't be told anything.
pub fn stay(lockspace: &Path, told: impl Read + AsFd, mut answers: impl Write) -> io::Result<()> {
    let mut told = BufReader::new(told.take(TALK));
    let (mut id, mut text) = (String::new(), String::new());
    told.read_line(&mut id)?;
    told.read_line(&mut text)?;
    let told = told.into_inner().into_inner();
    let mut say = |word: &str| writeln!(answers, "{word}").and_then(|()| answers.flush());
    for tries in 1.. {
        match appear(lockspace, id.trim_end(), text.trim_end()) {
            Ok(Some(_kept)) => {
                say(KEPT)?;
                while !is_over(told.as_fd(), PollTimeout::NONE) {}
                return Ok(());
            }
            Ok(None) if tries == SOON => say(TAKEN)?,
            Ok(None) => {}
            Err(error) => return say(&error.to_string()),
        }
        if is_over(told.as_fd(), PollTimeout::from(AGAIN)) {
            break;
        }
    }
    Ok(())
}

/// Waits until nobody talks any more, or a time is over; whether nobody does.
fn is_over(told: BorrowedFd<'_>, time: PollTimeout) -> bool {
    let mut polled = [PollFd::new(told, PollFlags::POLLIN)];
    !matches!(poll(&mut polled, time), Ok(0) | Err(Errno::EINTR))
}

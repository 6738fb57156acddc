//! The process that keeps a host's presence file locked. A file that is open on a dead file system
//! would delay the end of the process that has it open, and that must not be the service.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::announce;

/// The delay between two attempts while another process has the file locked. That
/// is usually the previous keeper, which is about to end.
const RETRY_DELAY: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// The number of failed attempts after which they are reported.
const REPORTED_ATTEMPT: usize = 25;
/// The longest input.
const INPUT_MAX: u64 = 16 << 10;

/// The report that the file is locked.
pub const KEPT: &str = "kept";
/// The report that another process has it locked for too long; the attempts continue.
pub const TAKEN: &str = "taken";

/// Runs the process until the service ends or closes its input. Reads the host's id and what the
/// host announces, a line each, and writes what came of it, or the error.
///
/// # Errors
///
/// If the input cannot be read.
pub fn run(lockspace: &Path, input: impl Read + AsFd, mut answers: impl Write) -> io::Result<()> {
    let mut input = BufReader::new(input.take(INPUT_MAX));
    let (mut id, mut text) = (String::new(), String::new());
    input.read_line(&mut id)?;
    input.read_line(&mut text)?;
    let input = input.into_inner().into_inner();
    let mut report = |word: &str| writeln!(answers, "{word}").and_then(|()| answers.flush());
    for tries in 1.. {
        match announce(lockspace, id.trim_end(), text.trim_end()) {
            Ok(Some(_kept)) => {
                report(KEPT)?;
                while !has_ended(input.as_fd(), None) {}
                return Ok(());
            }
            Ok(None) if tries == REPORTED_ATTEMPT => report(TAKEN)?,
            Ok(None) => {}
            Err(error) => return report(&error.to_string()),
        }
        if has_ended(input.as_fd(), Some(&RETRY_DELAY)) {
            break;
        }
    }
    Ok(())
}

/// Waits until the input ends or the timeout expires; returns whether it has ended.
fn has_ended(input: BorrowedFd<'_>, time: Option<&Timespec>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(input, PollFlags::IN)];
    !matches!(poll(&mut polled, time), Ok(0) | Err(Errno::INTR))
}

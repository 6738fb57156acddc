//! Notices that the bus has stopped progress what the service sends.
//!
//! dbus-daemon does not read a connection from which too much has come that it can't deliver
//! (`max_incoming_unix_fds`, `max_incoming_bytes`): a client that does not read its replies can bring
//! the service's connection to that, and no client would get an answer any more. A new connection is
//! charged with nothing, so the service leaves the bus then and connects again.
//!
//! The kernel tells how much of what was sent is not read yet. The bus has stalled when, for some
//! seconds, it has read nothing while something was there to be read.

use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::ioctl::{Getter, ioctl};
use tokio::time::sleep;

use crate::admission::Admission;
use crate::admission::transport::socket::ConnectedSocket;

/// How often it is looked whether the bus reads.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many ticks the bus may let pass without progress. Ticks are counted and not the time, so that
/// nothing is concluded from a time in which this process, or the host, did not run.
const MAX_IDLE_TICKS: usize = 5;

#[allow(clippy::cast_possible_truncation, reason = "requests have 32 bits, whatever libc's type")]
/// `SIOCOUTQ`, which has the number of `TIOCOUTQ` (unix(7)).
const SIOCOUTQ: rustix::ioctl::Opcode = nix::libc::TIOCOUTQ as _;

/// Watches a connection until it is closed, and closes it if the bus stalls.
pub(in crate::admission) async fn monitor(socket: Arc<ConnectedSocket>, admission: Admission) {
    loop {
        socket.activity().await;
        let mut progress = ReadProgress::default();
        loop {
            if socket.is_closed() {
                return;
            }
            sleep(INTERVAL).await;
            match unread_bytes(&socket) {
                Ok(0) => break,
                Ok(unread) => {
                    if progress.has_stalled(unread as u64, socket.bytes_sent()) {
                        admission.close_stalled(&socket);
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot find out whether the bus reads messages");
                    return;
                }
            }
        }
    }
}

/// How much of what was sent is not read yet, in bytes with their overhead.
#[allow(unsafe_code)]
fn unread_bytes(socket: &ConnectedSocket) -> io::Result<usize> {
    // SAFETY: SIOCOUTQ writes an int.
    let unread = unsafe { ioctl(socket.as_fd(), Getter::<SIOCOUTQ, c_int>::new()) }?;
    Ok(usize::try_from(unread).unwrap_or_default())
}

/// What was seen of the reader of a socket.
#[derive(Debug, Default)]
struct ReadProgress {
    ticks: usize,
    unread: u64,
    sent: u64,
}

impl ReadProgress {
    /// Enters how much is not read, and how much was sent in all. Returns whether nothing was read in
    /// the last ticks.
    fn has_stalled(&mut self, unread: u64, sent: u64) -> bool {
        // What is sent adds at least its bytes to what is not read.
        let has_read = unread < self.unread + (sent - self.sent);
        if self.ticks == 0 || has_read {
            *self = Self { ticks: 1, unread, sent };
            return false;
        }
        self.ticks += 1;
        self.ticks > MAX_IDLE_TICKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(seen: impl IntoIterator<Item = (u64, u64)>) -> Option<usize> {
        let mut progress = ReadProgress::default();
        seen.into_iter().position(|(unread, sent)| progress.has_stalled(unread, sent))
    }

    #[test]
    fn a_bus_that_reads_nothing_has_stalled() {
        assert_eq!(ticks([(700, 100); 9]), Some(MAX_IDLE_TICKS));
        assert_eq!(ticks((0..9).map(|n| (700 + 300 * n, 100 + 200 * n))), Some(MAX_IDLE_TICKS));
    }

    #[test]
    fn a_bus_that_reads_slowly_has_not() {
        // As much is there as before, but more was sent.
        assert_eq!(ticks((0..50).map(|n| (700, 100 + 200 * n))), None);
        assert_eq!(ticks((0..50).map(|n| (7000 - 10 * n, 7000))), None);
    }
}

//! Detects that the bus has stopped reading from the service (a stall).
//!
//! 1. dbus-daemon stops reading a connection that has sent too much that it cannot deliver
//!    (`max_incoming_unix_fds`, `max_incoming_bytes`). A client that does not read its replies can
//!    bring the service's connection to this point, and then no client gets a reply any more.
//! 2. The kernel reports how much of the sent data is not read yet. The bus has stalled if it has
//!    read nothing for some seconds although data was available.
//! 3. Nothing is charged to a new connection. Therefore the service disconnects from a stalled bus,
//!    and connects again.

use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::ioctl::{Getter, ioctl};
use tokio::time::sleep;

use crate::admission::Admission;
use crate::admission::transport::socket::ConnectedSocket;

/// The interval between two checks.
const INTERVAL: Duration = Duration::from_secs(1);
/// The maximum number of checks in a row without progress. Checks are counted, and not the time, so
/// that a pause of this process or of the host is not taken for a stall.
const MAX_IDLE_TICKS: usize = 5;

#[allow(clippy::cast_possible_truncation, reason = "requests have 32 bits, whatever libc's type")]
/// `SIOCOUTQ`, which has the same number as `TIOCOUTQ` (unix(7)).
const SIOCOUTQ: rustix::ioctl::Opcode = nix::libc::TIOCOUTQ as _;

/// Monitors a connection until it is closed, and closes it if the bus stalls.
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

/// Returns how much of the sent data is not read yet, in bytes with their overhead.
#[allow(unsafe_code)]
fn unread_bytes(socket: &ConnectedSocket) -> io::Result<usize> {
    // SAFETY: SIOCOUTQ writes an int.
    let unread = unsafe { ioctl(socket.as_fd(), Getter::<SIOCOUTQ, c_int>::new()) }?;
    Ok(usize::try_from(unread).unwrap_or_default())
}

/// The progress of the program that reads from a socket.
#[derive(Debug, Default)]
struct ReadProgress {
    ticks: usize,
    unread: u64,
    sent: u64,
}

impl ReadProgress {
    /// Updates the progress with the number of unread bytes, and the number of bytes sent so far.
    /// Returns whether nothing was read during the last checks.
    fn has_stalled(&mut self, unread: u64, sent: u64) -> bool {
        // Sent data adds at least its length to the number of unread bytes.
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
    fn a_bus_that_reads_slowly_has_not_stalled() {
        // The number of unread bytes is constant, but more was sent.
        assert_eq!(ticks((0..50).map(|n| (700, 100 + 200 * n))), None);
        assert_eq!(ticks((0..50).map(|n| (7000 - 10 * n, 7000))), None);
    }
}

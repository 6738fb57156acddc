//! Who reads the socket: the event loop, or during a flood a thread of its own.
//!
//! Usually the event loop reads, and no thread has to be woken for a call. A bus can send more than
//! the event loop takes while it is busy with something else. dbus-daemon then keeps what is left in
//! a queue of its own, which it never empties as long as the flood lasts: in one turn of its loop it
//! takes 2,048 bytes from each sender, and passes on 2,048 in all. The next call of root would stand
//! at the end of that queue. So when calls are rejected and more is waiting, a thread takes over the
//! reading until a second has passed without a rejection. The buffer of the socket is full after some
//! 270 messages, which is why the unit gives the service a high priority.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::call::Raw;
use super::intake::{Intake, Sorted};
use super::link::Link;
use super::refusals::Refusals;
use super::{Admission, lock};
use crate::lock::received::Received;

/// How long nothing must have been rejected until the event loop reads again.
const QUIET: Duration = Duration::from_secs(1);
/// How often the thread looks whether that is so, in milliseconds.
const LOOK: u16 = 250;
/// Replies and signals that the event loop has not taken. With more, the thread stops reading.
const OTHERS: usize = 4096;

/// What was read and is not passed on.
#[derive(Debug)]
pub(super) struct Inbox {
    link: Arc<Link>,
    admission: Admission,
    intake: Mutex<Intake>,
    /// Whether the thread reads.
    flooded: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Inbox {
    /// Reads from this link.
    pub(super) fn new(link: Arc<Link>, admission: Admission) -> Self {
        Self {
            link,
            admission,
            intake: Mutex::new(Intake::new()),
            flooded: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// Takes over what the handshake has read.
    ///
    /// # Errors
    ///
    /// Those of [`Intake::sort`].
    pub(super) fn append(&self, bytes: &[u8], descriptors: Vec<Received>) -> io::Result<()> {
        let mut intake = self.intake();
        intake.append(bytes, descriptors);
        intake.sort(0, &self.admission).map(drop)
    }

    /// Reads once, without waiting, unless a thread does. Returns whether anything came.
    ///
    /// # Errors
    ///
    /// At the end of the connection.
    pub(super) fn receive(self: &Arc<Self>) -> io::Result<bool> {
        if let Some(error) = lock(&self.failure).take() {
            return Err(error);
        }
        if self.is_flooded() {
            return Ok(false);
        }
        let mut intake = self.intake();
        let (buffer, descriptors) = intake.room();
        let length = buffer.len();
        let received = self.link.receive(buffer, descriptors);
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let sorted = intake.sort(count, &self.admission)?;
        if sorted.rejected > 0 && count == length {
            self.flooded.store(true, Ordering::Relaxed);
            let inbox = Arc::clone(self);
            tokio::task::spawn_blocking(move || inbox.read_flood());
        }
        Ok(true)
    }

    /// Whether a thread reads.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Acquire)
    }

    /// Takes a reply or a signal that is to be passed on.
    pub(super) fn next_other(&self) -> Option<Raw> {
        self.intake().others.pop_front()
    }

    /// The calls that are to be refused.
    pub(super) fn with_refusals<T>(&self, act: impl FnOnce(&mut Refusals) -> T) -> T {
        act(&mut self.intake().refusals)
    }

    /// Reads until the flood is over or the connection ends.
    fn read_flood(&self) {
        let mut rejected = Instant::now();
        loop {
            match self.wait_and_receive() {
                Ok(sorted) => {
                    if sorted.accepted > 0 {
                        self.admission.wake();
                    }
                    if sorted.rejected > 0 {
                        rejected = Instant::now();
                    }
                }
                Err(error) => {
                    *lock(&self.failure) = Some(error);
                    break;
                }
            }
            if rejected.elapsed() > QUIET || self.intake().others.len() > OTHERS {
                break;
            }
        }
        self.flooded.store(false, Ordering::Release);
        self.admission.wake();
    }

    fn wait_and_receive(&self) -> io::Result<Sorted> {
        let mut event = [PollFd::new(self.link.as_fd(), PollFlags::POLLIN)];
        match poll(&mut event, PollTimeout::from(LOOK)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Sorted::default()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut intake = self.intake();
        let (buffer, descriptors) = intake.room();
        match self.link.receive_now(buffer, descriptors) {
            Ok(count) => intake.sort(count, &self.admission),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sorted::default()),
            Err(error) => Err(error),
        }
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        lock(&self.intake)
    }
}

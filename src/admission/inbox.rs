//! Who reads the socket: the event loop, or during a flood a thread of its own.
//!
//! Usually the event loop reads, and no thread has to be woken for a call. A bus can send more than
//! the event loop takes while it is busy with something else. dbus-daemon then keeps what is left in
//! a queue of its own, which it never empties as long as the flood lasts: in one turn of its loop it
//! takes 2,048 bytes from each sender, and passes on 2,048 in all. The next call of root would stand
//! at the end of that queue. So when calls are rejected and more is waiting, a thread takes over the
//! reading until a second has passed without a rejection, and the event loop is not woken for what
//! comes meanwhile. The buffer of the socket is full after some 270 messages, which is why the unit
//! gives the service a high priority.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::call::Raw;
use super::discard::Discard;
use super::intake::{Intake, Next, Sorted};
use super::link::{Arrived, Link};
use super::readiness::Readiness;
use super::refusals::Refusals;
use super::{Admission, lock};
use crate::lock::closer;
use crate::lock::received::Received;

/// How long nothing must have been rejected until the event loop reads again.
const QUIET: Duration = Duration::from_secs(1);
/// How often the thread looks whether that is so, in milliseconds.
const LOOK: u16 = 250;
/// How long the thread lets messages gather before it reads again. If it were woken for each of them,
/// it and the bus would occupy two processors, and root's client would wait for one.
const GATHER: Duration = Duration::from_micros(500);
/// How long after a rejection messages still gather. A long message takes several reads.
const GATHERING: Duration = Duration::from_millis(50);
/// Replies and signals that the event loop has not taken. With more, the thread stops reading.
const OTHERS: usize = 4096;

/// What was read and is not passed on.
#[derive(Debug)]
pub(super) struct Inbox {
    link: Arc<Link>,
    /// Suspended while the thread reads.
    readiness: Readiness,
    admission: Admission,
    intake: Mutex<Intake>,
    discard: Mutex<Discard>,
    /// Whether the thread reads.
    flooded: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Inbox {
    /// Reads from this link.
    pub(super) fn new(link: Arc<Link>, readiness: Readiness, admission: Admission) -> Self {
        Self {
            discard: Mutex::new(Discard::new(Arc::clone(&link))),
            link,
            readiness,
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
        intake.sort(Arrived::default(), &self.admission).map(drop)
    }

    /// Waits until the event loop has something to read.
    ///
    /// # Errors
    ///
    /// Where the event loop has ended.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.readiness.readable().await
    }

    /// Reads for the handshake.
    ///
    /// # Errors
    ///
    /// Those of [`Link::receive`].
    pub(super) fn receive_greeting(
        &self,
        buffer: &mut [u8],
        descriptors: &mut impl Extend<Received>,
    ) -> io::Result<Arrived> {
        self.readiness.try_read(|| self.link.receive_now(buffer, descriptors))
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
        self.readiness.resume()?;
        let mut intake = self.intake();
        let room = intake.room().0.len();
        let arrived = match self.readiness.try_read(|| self.read(&mut intake)) {
            Ok(arrived) => arrived,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let sorted = intake.sort(arrived, &self.admission)?;
        if sorted.rejected > 0 && may_have_left(arrived, room) {
            self.flooded.store(true, Ordering::Relaxed);
            self.readiness.suspend();
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
                Ok((sorted, may_have_more)) => {
                    if sorted.accepted > 0 {
                        self.admission.wake();
                    }
                    if sorted.rejected > 0 {
                        rejected = Instant::now();
                    }
                    if !may_have_more && rejected.elapsed() < GATHERING {
                        thread::sleep(GATHER);
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

    /// Waits until there is something to read, or it is time to look, and reads once. Returns what
    /// became of it, and whether the read may have left something.
    fn wait_and_receive(&self) -> io::Result<(Sorted, bool)> {
        let mut event = [PollFd::new(self.link.as_fd(), PollFlags::POLLIN)];
        match poll(&mut event, PollTimeout::from(LOOK)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Default::default()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut intake = self.intake();
        let room = intake.room().0.len();
        match self.read(&mut intake) {
            Ok(arrived) => {
                let may_have_more = may_have_left(arrived, room);
                let had_none = intake.refusals.delay().is_none();
                let sorted = intake.sort(arrived, &self.admission)?;
                // The event loop knows when it may send those that there were before.
                if had_none && intake.refusals.delay().is_some() {
                    self.admission.wake();
                }
                Ok((sorted, may_have_more))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Default::default()),
            Err(error) => Err(error),
        }
    }

    /// Reads what is there, but no descriptors that their user may not pass.
    fn read(&self, intake: &mut Intake) -> io::Result<Arrived> {
        let mut most = usize::MAX;
        if closer::is_near_limit() {
            let peeked = self.link.peek(intake.room().0)?;
            // No more than this, since descriptors may come with what is behind it.
            most = peeked.count;
            if peeked.lost {
                match intake.next_descriptors(peeked.count, &self.admission) {
                    Next::Wanted => {}
                    Next::Behind(count) => most = count,
                    Next::Unwanted(why) => {
                        if let Some(byte) = lock(&self.discard).next_byte()? {
                            intake.discarded(byte, why);
                            return Ok(Arrived { count: 1, descriptors: true, lost: false });
                        }
                    }
                }
            }
        }
        let (buffer, descriptors) = intake.room();
        let most = most.min(buffer.len());
        self.link.receive_now(&mut buffer[..most], descriptors)
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        lock(&self.intake)
    }
}

/// Whether a read into a room of this size may have left something behind.
fn may_have_left(arrived: Arrived, room: usize) -> bool {
    // With descriptors, and while they are discarded, each read ends early.
    arrived.count == room || arrived.descriptors || closer::is_near_limit()
}

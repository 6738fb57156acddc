//! Reads the socket: on the event loop, or during a flood on a thread.
//!
//! 1. Usually the event loop reads, and no thread has to be woken for a call.
//! 2. A bus can send more than the event loop receives while it is busy. dbus-daemon then keeps the
//!    rest in a queue of its own, which it never empties while the flood lasts: in one iteration of
//!    its main loop it reads 2,048 bytes from each sender, and forwards 2,048 in all. The next call
//!    of root would be last in that queue.
//! 3. Therefore, when calls are rejected and more data is available, a thread reads instead, until
//!    a second has passed without a rejection. The event loop is not woken for incoming messages
//!    meanwhile.
//!
//! The socket buffer is full after about 270 messages, which is why the unit gives the service a
//! high priority.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::classifier::{Classified, Classifier, DescriptorPlan};
use super::discard::Discarder;
use crate::admission::Admission;
use crate::admission::message::raw::RawMessage;
use crate::admission::quota::refusal_queue::RefusalQueue;
use crate::admission::transport::readiness::Readiness;
use crate::admission::transport::socket::{ConnectedSocket, ReadOutcome};
use crate::lock::descriptor::closer;
use crate::lock::descriptor::received::Received;
use crate::sync::lock;

/// The event loop reads again after this time without a rejection.
const QUIET_PERIOD: Duration = Duration::from_secs(1);
/// How often the thread checks whether that time has passed.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// How long the thread waits before it reads again, so that messages arrive in batches. If each
/// message woke the thread, it and the bus would occupy two processors, and the client of root
/// would wait for one.
const BATCH_DELAY: Duration = Duration::from_micros(500);
/// How long after a rejection messages are still read in batches. A long message takes several
/// reads.
const BATCH_PERIOD: Duration = Duration::from_millis(50);
/// The maximum number of replies and signals that the event loop has not handled. With more, the
/// thread stops reading.
const MAX_OTHERS: usize = 4096;

/// The messages that were received and are not handled yet.
#[derive(Debug)]
pub(in crate::admission) struct Receiver {
    socket: Arc<ConnectedSocket>,
    /// Suspended while the thread reads.
    readiness: Readiness,
    admission: Admission,
    classifier: Mutex<Classifier>,
    discarder: Mutex<Discarder>,
    /// Whether the thread reads.
    flooded: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Receiver {
    /// Creates a receiver for `socket`.
    pub(in crate::admission) fn new(
        socket: Arc<ConnectedSocket>,
        readiness: Readiness,
        admission: Admission,
    ) -> Self {
        Self {
            discarder: Mutex::new(Discarder::new(Arc::clone(&socket))),
            socket,
            readiness,
            admission,
            classifier: Mutex::new(Classifier::new()),
            flooded: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// Appends bytes and descriptors that were read during the handshake.
    ///
    /// # Errors
    ///
    /// The errors of [`Classifier::classify`].
    pub(in crate::admission) fn append(
        &self,
        bytes: &[u8],
        descriptors: Vec<Received>,
    ) -> io::Result<()> {
        let mut classifier = self.classifier();
        classifier.append(bytes, descriptors);
        classifier.classify(ReadOutcome::default(), &self.admission).map(drop)
    }

    /// Waits until the socket is readable on the event loop.
    ///
    /// # Errors
    ///
    /// If the event loop has ended.
    pub(in crate::admission) async fn readable(&self) -> io::Result<()> {
        self.readiness.readable().await
    }

    /// Reads during the handshake.
    ///
    /// # Errors
    ///
    /// The errors of [`ConnectedSocket::receive`].
    pub(in crate::admission) fn receive_handshake(
        &self,
        buffer: &mut [u8],
        descriptors: &mut impl Extend<Received>,
    ) -> io::Result<ReadOutcome> {
        self.readiness.try_read(|| self.socket.receive_now(buffer, descriptors))
    }

    /// Reads once, without waiting, unless the thread reads. Returns whether data was received.
    ///
    /// # Errors
    ///
    /// At the end of the connection.
    pub(in crate::admission) fn receive(self: &Arc<Self>) -> io::Result<bool> {
        if let Some(error) = lock(&self.failure).take() {
            return Err(error);
        }
        if self.is_flooded() {
            return Ok(false);
        }
        self.readiness.resume()?;
        let mut classifier = self.classifier();
        let capacity = classifier.read_buffer().0.len();
        let outcome = match self.readiness.try_read(|| self.read(&mut classifier)) {
            Ok(outcome) => outcome,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let classified = classifier.classify(outcome, &self.admission)?;
        if classified.rejected > 0 && may_have_more_data(outcome, capacity) {
            self.flooded.store(true, Ordering::Relaxed);
            self.readiness.suspend();
            let receiver = Arc::clone(self);
            tokio::task::spawn_blocking(move || receiver.run_flood_thread());
        }
        Ok(true)
    }

    /// Returns whether the thread reads.
    pub(in crate::admission) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Acquire)
    }

    /// Removes and returns the next reply or signal for zbus.
    pub(in crate::admission) fn next_other(&self) -> Option<RawMessage> {
        self.classifier().others.pop_front()
    }

    /// Calls `act` with the queue of refusals.
    pub(in crate::admission) fn with_refusals<T>(
        &self,
        act: impl FnOnce(&mut RefusalQueue) -> T,
    ) -> T {
        act(&mut self.classifier().refusals)
    }

    /// Reads until the flood is over or the connection ends.
    fn run_flood_thread(&self) {
        let mut rejected = Instant::now();
        loop {
            match self.poll_and_receive() {
                Ok((classified, may_have_more)) => {
                    if classified.accepted > 0 {
                        self.admission.wake();
                    }
                    if classified.rejected > 0 {
                        rejected = Instant::now();
                    }
                    if !may_have_more && rejected.elapsed() < BATCH_PERIOD {
                        thread::sleep(BATCH_DELAY);
                    }
                }
                Err(error) => {
                    *lock(&self.failure) = Some(error);
                    break;
                }
            }
            if rejected.elapsed() > QUIET_PERIOD || self.classifier().others.len() > MAX_OTHERS {
                break;
            }
        }
        self.flooded.store(false, Ordering::Release);
        self.admission.wake();
    }

    /// Waits for data, for [`POLL_INTERVAL`] at most, and reads once. Returns the numbers of
    /// messages, and whether more data may be available.
    fn poll_and_receive(&self) -> io::Result<(Classified, bool)> {
        let mut event = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        match poll(&mut event, Some(&POLL_INTERVAL)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Default::default()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut classifier = self.classifier();
        let capacity = classifier.read_buffer().0.len();
        match self.read(&mut classifier) {
            Ok(outcome) => {
                let may_have_more = may_have_more_data(outcome, capacity);
                let had_none = classifier.refusals.delay().is_none();
                let classified = classifier.classify(outcome, &self.admission)?;
                // The event loop already knows when the refusals are due that were queued before.
                if had_none && classifier.refusals.delay().is_some() {
                    self.admission.wake();
                }
                Ok((classified, may_have_more))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Default::default()),
            Err(error) => Err(error),
        }
    }

    /// Reads available data, but no descriptors that exceed the quota of their user.
    fn read(&self, classifier: &mut Classifier) -> io::Result<ReadOutcome> {
        let mut max_len = usize::MAX;
        if closer::is_near_limit() {
            let peeked = self.socket.peek(classifier.read_buffer().0)?;
            // Not more than this, since descriptors may come with the bytes after it.
            max_len = peeked.bytes;
            if peeked.lost_descriptors {
                match classifier.plan_descriptors(peeked.bytes, &self.admission) {
                    DescriptorPlan::Receive => {}
                    DescriptorPlan::ReadFirst(count) => max_len = count,
                    DescriptorPlan::Discard(reason) => {
                        if let Some(byte) = lock(&self.discarder).discard_next()? {
                            classifier.insert_discarded(byte, reason);
                            return Ok(ReadOutcome {
                                bytes: 1,
                                has_descriptors: true,
                                lost_descriptors: false,
                            });
                        }
                    }
                }
            }
        }
        let (buffer, descriptors) = classifier.read_buffer();
        let max_len = max_len.min(buffer.len());
        self.socket.receive_now(&mut buffer[..max_len], descriptors)
    }

    fn classifier(&self) -> MutexGuard<'_, Classifier> {
        lock(&self.classifier)
    }
}

/// Returns whether a read into a buffer of this capacity may have left data.
fn may_have_more_data(outcome: ReadOutcome, capacity: usize) -> bool {
    // If descriptors come with the bytes, and while they are discarded, each read ends early.
    outcome.bytes == capacity || outcome.has_descriptors || closer::is_near_limit()
}

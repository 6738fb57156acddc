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

use super::classifier::{Classified, Classifier, DescriptorPlan};
use super::discard::Discarder;
use crate::admission::Admission;
use crate::admission::message::raw::RawMessage;
use crate::admission::quota::refusal_queue::RefusalQueue;
use crate::admission::transport::readiness::Readiness;
use crate::admission::transport::socket::{ConnectedSocket, ReadOutcome};
use crate::lock::closer;
use crate::lock::received::Received;
use crate::sync::lock;

/// How long nothing must have been rejected until the event loop reads again.
const QUIET_PERIOD: Duration = Duration::from_secs(1);
/// How often the thread looks whether that is so, in milliseconds.
const POLL_INTERVAL_MS: u16 = 250;
/// How long the thread lets messages gather before it reads again. If it were woken for each of them,
/// it and the bus would occupy two processors, and root's client would wait for one.
const BATCH_DELAY: Duration = Duration::from_micros(500);
/// How long after a rejection messages still gather. A long message takes several reads.
const BATCH_PERIOD: Duration = Duration::from_millis(50);
/// Replies and signals that the event loop has not taken. With more, the thread stops reading.
const MAX_OTHERS: usize = 4096;

/// What was read and is not passed on.
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
    /// Reads from this socket.
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

    /// Takes over what the handshake has read.
    ///
    /// # Errors
    ///
    /// Those of [`Classifier::classify`].
    pub(in crate::admission) fn append(
        &self,
        bytes: &[u8],
        descriptors: Vec<Received>,
    ) -> io::Result<()> {
        let mut classifier = self.classifier();
        classifier.append(bytes, descriptors);
        classifier.classify(ReadOutcome::default(), &self.admission).map(drop)
    }

    /// Waits until the event loop has something to read.
    ///
    /// # Errors
    ///
    /// Where the event loop has ended.
    pub(in crate::admission) async fn readable(&self) -> io::Result<()> {
        self.readiness.readable().await
    }

    /// Reads for the handshake.
    ///
    /// # Errors
    ///
    /// Those of [`ConnectedSocket::receive`].
    pub(in crate::admission) fn receive_handshake(
        &self,
        buffer: &mut [u8],
        descriptors: &mut impl Extend<Received>,
    ) -> io::Result<ReadOutcome> {
        self.readiness.try_read(|| self.socket.receive_now(buffer, descriptors))
    }

    /// Reads once, without waiting, unless a thread does. Returns whether anything came.
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

    /// Whether a thread reads.
    pub(in crate::admission) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Acquire)
    }

    /// Takes a reply or a signal that is to be passed on.
    pub(in crate::admission) fn next_other(&self) -> Option<RawMessage> {
        self.classifier().others.pop_front()
    }

    /// The calls that are to be refused.
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

    /// Waits until there is something to read, or it is time to look, and reads once. Returns what
    /// became of it, and whether the read may have left something.
    fn poll_and_receive(&self) -> io::Result<(Classified, bool)> {
        let mut event = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut event, PollTimeout::from(POLL_INTERVAL_MS)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Default::default()),
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
                // The event loop knows when it may send those that there were before.
                if had_none && classifier.refusals.delay().is_some() {
                    self.admission.wake();
                }
                Ok((classified, may_have_more))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Default::default()),
            Err(error) => Err(error),
        }
    }

    /// Reads what is there, but no descriptors that their user may not pass.
    fn read(&self, classifier: &mut Classifier) -> io::Result<ReadOutcome> {
        let mut max_len = usize::MAX;
        if closer::is_near_limit() {
            let peeked = self.socket.peek(classifier.read_buffer().0)?;
            // No more than this, since descriptors may come with what is behind it.
            max_len = peeked.bytes;
            if peeked.lost_descriptors {
                match classifier.plan_descriptors(peeked.bytes, &self.admission) {
                    DescriptorPlan::Receive => {}
                    DescriptorPlan::ReadFirst(count) => max_len = count,
                    DescriptorPlan::Discard(why) => {
                        if let Some(byte) = lock(&self.discarder).discard_next()? {
                            classifier.insert_discarded(byte, why);
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

/// Whether a read into a room of this size may have left something behind.
fn may_have_more_data(outcome: ReadOutcome, capacity: usize) -> bool {
    // With descriptors, and while they are discarded, each read ends early.
    outcome.bytes == capacity || outcome.has_descriptors || closer::is_near_limit()
}

//! A client: its connection with the buffers for input and output, and its deadline.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::dispatcher::{Dispatcher, Response};
use super::frame;
use crate::life::Connection;
use crate::sync;

/// How long a client may take to send its first message, to send the rest of a message, or to read a
/// reply.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// How many bytes are read at once: more than any message of libvirt has.
const READ_SIZE: usize = 16 * 1024;

/// How many calls of a client are executed at once, so that a client that sends many does not
/// delay the others.
const MAX_CALLS: usize = 16;

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection: Arc<Connection>,
    /// Whether a worker serves it: [`IDLE`], [`SERVED`] or [`UNWATCHED`].
    service: AtomicU8,
    /// Whether it waits for room in the send buffer.
    awaits_room: AtomicBool,
    /// Locked while the watched events are changed.
    watch: Mutex<()>,
    state: Mutex<State>,
}

/// No worker serves the client.
const IDLE: u8 = 0;
/// A worker serves it.
const SERVED: u8 = 1;
/// A worker serves it, and its events are not watched until that worker has finished.
const UNWATCHED: u8 = 2;

#[derive(Debug)]
struct State {
    dispatcher: Dispatcher,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Since when the service waits for the client, if the client has a deadline.
    waiting_since: Option<Instant>,
}

/// The event before which the client is not served again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Data from the client.
    Read,
    /// Room in the send buffer, for replies, or to execute further calls that it has sent.
    Write,
    /// Nothing: the client has disconnected, or must be disconnected.
    Close,
}

impl Client {
    pub(super) fn new(connection: Arc<Connection>, dispatcher: Dispatcher) -> Self {
        let waiting_since = (!dispatcher.may_be_idle()).then(Instant::now);
        let (input, output) = (Vec::new(), Vec::new());
        let state = Mutex::new(State { dispatcher, input, output, waiting_since });
        let (service, awaits_room) = (AtomicU8::new(IDLE), AtomicBool::new(false));
        Self { connection, service, awaits_room, watch: Mutex::default(), state }
    }

    /// Begins to serve the client. Returns `false` if another worker serves it.
    pub(super) fn begin_service(&self) -> bool {
        self.service.compare_exchange(IDLE, SERVED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Marks the client as not watched. Returns `false` if it is marked already, or no worker serves
    /// it any more.
    pub(super) fn mark_unwatched(&self) -> bool {
        let marked =
            self.service.compare_exchange(SERVED, UNWATCHED, Ordering::AcqRel, Ordering::Acquire);
        marked.is_ok()
    }

    /// Finishes serving the client, which waits for `next`. Returns whether its events have to be
    /// watched anew, since they were not watched or it waits for other ones.
    pub(super) fn finish_service(&self, next: Next) -> bool {
        let awaits_room = next == Next::Write;
        let awaited_room = self.awaits_room.swap(awaits_room, Ordering::AcqRel);
        self.service.swap(IDLE, Ordering::AcqRel) == UNWATCHED || awaited_room != awaits_room
    }

    /// Calls `change` with what is watched from now on, `None` for nothing. Changes come one after
    /// the other: a worker that was replaced may be late, and must not watch for what the client
    /// waited for at an earlier time.
    pub(super) fn change_watch<T>(&self, change: impl FnOnce(Option<Next>) -> T) -> T {
        let _change = sync::lock(&self.watch);
        let is_watched = self.service.load(Ordering::Acquire) != UNWATCHED;
        let awaits_room = self.awaits_room.load(Ordering::Acquire);
        let next = if awaits_room { Next::Write } else { Next::Read };
        change(is_watched.then_some(next))
    }

    /// Whether the client has a deadline now.
    pub(super) fn has_deadline(&self) -> bool {
        match self.state.try_lock() {
            Ok(state) => state.waiting_since.is_some(),
            // A worker is serving it.
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Poisoned(state)) => state.into_inner().waiting_since.is_some(),
        }
    }

    /// Shuts the connection down if the client has exceeded [`TIMEOUT`]. The next worker that serves the
    /// client removes it.
    pub(super) fn enforce_deadline(&self) {
        let Ok(state) = self.state.try_lock() else { return };
        if state.waiting_since.is_some_and(|since| since.elapsed() >= TIMEOUT) {
            tracing::info!("disconnecting a client of virtlockd's socket: timed out in a message");
            self.connection.shut_down();
        }
    }

    /// Executes the calls that the client has sent, up to [`MAX_CALLS`].
    pub(super) fn serve(&self) -> Next {
        let mut state = self.state();
        let mut drained = false;
        for _ in 0..MAX_CALLS {
            match state.flush(&self.connection) {
                Ok(true) => {}
                Ok(false) => {
                    state.waiting_since.get_or_insert_with(Instant::now);
                    return Next::Write;
                }
                Err(_) => return Next::Close,
            }
            match state.dispatch_next() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(()) => return Next::Close,
            }
            // The last read did not fill the buffer, so another one would return EAGAIN.
            if drained {
                return state.wait();
            }
            match state.read(&self.connection) {
                Ok(0) => return Next::Close,
                Ok(count) => drained = count < READ_SIZE,
                Err(Errno::AGAIN | Errno::INTR) => return state.wait(),
                Err(_) => return Next::Close,
            }
        }
        // There is room, so its turn comes after those of the clients that wait already.
        Next::Write
    }

    /// Ends the client's session after it has disconnected.
    pub(super) fn end(&self) {
        // Copies of this end may be in the stash.
        self.connection.shut_down();
        self.state().dispatcher.end();
    }

    /// Locks the state. A poisoned lock is no reason to stop: whatever the client had is released in any
    /// case.
    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }
}

impl State {
    /// Sends the output. Returns whether all of it was sent.
    fn flush(&mut self, connection: &Connection) -> Result<bool, Errno> {
        while !self.output.is_empty() {
            match connection.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.dispatcher.replies_sent();
        Ok(true)
    }

    /// Dispatches the first message of the input. Returns whether there was a complete one.
    fn dispatch_next(&mut self) -> Result<bool, ()> {
        let Some(frame) = frame::parse(&self.input).map_err(drop)? else { return Ok(false) };
        let (response, length) = (self.dispatcher.dispatch(&frame), frame.length);
        self.input.drain(..length);
        self.waiting_since = None;
        match response {
            Response::Message(message) => self.output = message,
            Response::None => {}
            Response::Disconnect => return Err(()),
        }
        Ok(true)
    }

    fn read(&mut self, connection: &Connection) -> Result<usize, Errno> {
        if self.dispatcher.is_stashed() {
            match connection.has_unread()? {
                Some(true) => self.dispatcher.unstash(),
                Some(false) => return Ok(0),
                None => return Err(Errno::AGAIN),
            }
        }
        // Not initialized, since that would cost more than the rest of a small read.
        let mut buffer = [MaybeUninit::uninit(); READ_SIZE];
        let read = connection.read(&mut buffer)?;
        self.input.extend_from_slice(read);
        Ok(read.len())
    }

    fn wait(&mut self) -> Next {
        if !self.input.is_empty() || !self.dispatcher.may_be_idle() {
            self.waiting_since.get_or_insert_with(Instant::now);
        } else {
            self.dispatcher.idle();
        }
        Next::Read
    }
}

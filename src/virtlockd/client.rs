//! One client's connection: bytes in, messages, bytes out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::frame;
use super::session::{Answer, Session};
use crate::life::Connection;

/// How long a client may take for the rest of a message, for its first, or for reading an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How much is read at once: more than any message of libvirt's.
const CHUNK: usize = 16 * 1024;

/// A client that is connected.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection: Arc<Connection>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    session: Session,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Since when something of it is awaited.
    since: Option<Instant>,
}

/// What a client is waited for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// That it says something.
    Word,
    /// That it reads what it was answered.
    Room,
    /// Nothing: it is gone, or to be sent away.
    End,
}

impl Client {
    pub(super) fn new(connection: Arc<Connection>, session: Session) -> Self {
        let since = (!session.has_spoken()).then(Instant::now);
        let (input, output) = (Vec::new(), Vec::new());
        Self { connection, inner: Mutex::new(Inner { session, input, output, since }) }
    }

    /// Whether something is awaited of it.
    pub(super) fn is_awaited(&self) -> bool {
        match self.inner.try_lock() {
            Ok(inner) => inner.since.is_some(),
            // It is being served.
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Poisoned(inner)) => inner.into_inner().since.is_some(),
        }
    }

    /// Sends it away if it has been waited for too long; whoever serves it sees that it is gone.
    pub(super) fn lose_patience(&self) {
        let Ok(inner) = self.inner.try_lock() else { return };
        if inner.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            tracing::info!("disconnecting a client of virtlockd's socket: timed out in a message");
            self.connection.hang_up();
        }
    }

    /// Does all it asks for.
    pub(super) fn serve(&self) -> Next {
        let mut inner = self.inner();
        let mut dry = false;
        loop {
            match inner.flush(&self.connection) {
                Ok(true) => {}
                Ok(false) => {
                    inner.since.get_or_insert_with(Instant::now);
                    return Next::Room;
                }
                Err(_) => return Next::End,
            }
            match inner.answer() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(()) => return Next::End,
            }
            // Less came than there was room for: there is no more, and to look would be in vain.
            if dry {
                return inner.wait();
            }
            match inner.read(&self.connection) {
                Ok(0) => return Next::End,
                Ok(count) => dry = count < CHUNK,
                Err(Errno::AGAIN | Errno::INTR) => return inner.wait(),
                Err(_) => return Next::End,
            }
        }
    }

    /// It is gone.
    pub(super) fn end(&self) {
        // Copies of our end may be parked.
        self.connection.hang_up();
        self.inner().session.end();
    }

    /// A panic while it was served is no reason to stop: what it had is given up in any case.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Sends what is to be sent. `false`: there is no room for all of it.
    fn flush(&mut self, connection: &Connection) -> Result<bool, Errno> {
        while !self.output.is_empty() {
            match connection.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.session.is_answered();
        Ok(true)
    }

    /// Answers the first message, if it is whole. `false`: there is none.
    fn answer(&mut self) -> Result<bool, ()> {
        let Some(frame) = frame::next(&self.input).map_err(drop)? else { return Ok(false) };
        let (answer, length) = (self.session.answer(&frame), frame.length);
        self.input.drain(..length);
        self.since = None;
        match answer {
            Answer::Message(message) => self.output = message,
            Answer::Silence => {}
            Answer::HangUp => return Err(()),
        }
        Ok(true)
    }

    fn read(&mut self, connection: &Connection) -> Result<usize, Errno> {
        if self.session.is_kept() {
            match connection.has_come()? {
                Some(true) => self.session.speaks(),
                Some(false) => return Ok(0),
                None => return Err(Errno::AGAIN),
            }
        }
        let mut chunk = [0; CHUNK];
        let count = connection.read(&mut chunk)?;
        self.input.extend(chunk.iter().take(count));
        Ok(count)
    }

    fn wait(&mut self) -> Next {
        if !self.input.is_empty() || !self.session.has_spoken() {
            self.since.get_or_insert_with(Instant::now);
        } else {
            self.session.is_silent();
        }
        Next::Word
    }
}

//! Discards descriptors: the kernel drops them instead of delivering them.
//!
//! A received descriptor must be closed, and each close blocks if its file system does not respond.
//! While a user has too many descriptors that are not closed, the descriptors of its next messages
//! are not received at all. If a message is read without room for its descriptors, the kernel drops
//! them without a request to a file system (`flush` belongs to a close, see
//! [`crate::lock::descriptor::closer`]).
//!
//! The release of the file can still block, if no other copy of the descriptor is left. The kernel
//! releases the file before the system call returns. Therefore a thread that may hang moves the
//! first byte of the message, with which the descriptors come, into a pipe. The byte is in the pipe
//! before the release begins: the connection continues with it, whether the thread returns or not.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::admission::transport::socket::ConnectedSocket;
use crate::lock::descriptor::closer;
use crate::sync::lock;

/// The maximum number of threads that may hang. If all of them hang, descriptors are received, and
/// wait to be closed.
const MAX_THREADS: usize = 64;
/// The stack size of such a thread, in bytes.
const STACK_SIZE: usize = 64 << 10;

/// Discards descriptors of one connection.
#[derive(Debug)]
pub(in crate::admission) struct Discarder {
    socket: Arc<ConnectedSocket>,
    pipe: Option<(PipeReader, Arc<PipeWriter>)>,
    threads: Vec<DiscardThread>,
    error: Arc<Mutex<Option<io::Error>>>,
}

#[derive(Debug)]
struct DiscardThread {
    /// Wakes the thread.
    wake: mpsc::Sender<()>,
    /// Whether the thread has work, or hangs.
    busy: Arc<AtomicBool>,
}

impl Discarder {
    /// Creates a discarder for descriptors that come over `socket`.
    pub(in crate::admission) fn new(socket: Arc<ConnectedSocket>) -> Self {
        Self { socket, pipe: None, threads: Vec::new(), error: Arc::default() }
    }

    /// Reads the next byte, with which descriptors come, and has the kernel drop these descriptors.
    /// Returns `None` without reading if no thread is available.
    ///
    /// # Errors
    ///
    /// The errors of splice(2). No other code may read from the socket meanwhile.
    pub(in crate::admission) fn discard_next(&mut self) -> io::Result<Option<u8>> {
        let Some(wake) = self.idle_thread() else { return Ok(None) };
        let Some((pipe, _)) = &mut self.pipe else { return Ok(None) };
        if wake.send(()).is_err() {
            return Ok(None);
        }
        let mut byte = [0];
        pipe.read_exact(&mut byte)?;
        match lock(&self.error).take() {
            Some(error) => Err(error),
            None => Ok(Some(byte[0])),
        }
    }

    /// Reserves an idle thread. Returns the sender that wakes it.
    fn idle_thread(&mut self) -> Option<mpsc::Sender<()>> {
        let is_idle = |thread: &&DiscardThread| !thread.busy.swap(true, Ordering::AcqRel);
        if let Some(thread) = self.threads.iter().find(is_idle) {
            return Some(thread.wake.clone());
        }
        if self.threads.len() >= MAX_THREADS {
            return None;
        }
        if self.pipe.is_none() {
            let (reader, writer) = io::pipe().ok()?;
            self.pipe = Some((reader, Arc::new(writer)));
        }
        let (_, pipe) = self.pipe.as_ref()?;
        let (wake, wakes) = mpsc::channel();
        let busy = Arc::new(AtomicBool::new(true));
        let thread = DiscardThread { wake: wake.clone(), busy: Arc::clone(&busy) };
        let (socket, pipe) = (Arc::clone(&self.socket), Arc::clone(pipe));
        let error = Arc::clone(&self.error);
        let run = move || {
            for () in wakes {
                if let Err(failure) = closer::tracked(|| socket.splice_byte(&*pipe)) {
                    *lock(&error) = Some(failure);
                    // Replaces the byte that was not moved. An empty pipe has room for it.
                    let _ = (&*pipe).write(&[0]);
                }
                busy.store(false, Ordering::Release);
            }
        };
        let builder = thread::Builder::new().name("discard".to_owned()).stack_size(STACK_SIZE);
        builder.spawn(run).ok()?;
        self.threads.push(thread);
        Some(wake)
    }
}

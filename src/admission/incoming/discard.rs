//! Descriptors that the kernel drops instead of handing them out.
//!
//! A descriptor that was received has to be closed, and a file system that does not answer blocks
//! each close. While the user that sends a message has too many such descriptors, those of its next
//! messages are not received at all. If a message is read without room for its descriptors, the
//! kernel drops them, and asks no file system (`flush` belongs to a close, see [`crate::lock::closer`]).
//!
//! It is the release of the file that may still block here, where no other copy is left. The kernel
//! does that before the system call returns. So the first byte of the message, with which the
//! descriptors come, is moved into a pipe by a thread that may be left behind. The byte is in the pipe
//! before the release wakes: the connection goes on with it, whether the thread comes back or not.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::admission::transport::socket::ConnectedSocket;
use crate::lock::closer;
use crate::sync::lock;

/// How many threads may hang. When all do, descriptors are received, and wait to be closed.
const MAX_THREADS: usize = 64;
/// The stack of such a thread, in bytes.
const STACK_SIZE: usize = 64 << 10;

/// Drops descriptors of one connection.
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
    /// Whether it has something to do, or hangs.
    busy: Arc<AtomicBool>,
}

impl Discarder {
    /// Drops descriptors that come over this socket.
    pub(in crate::admission) fn new(socket: Arc<ConnectedSocket>) -> Self {
        Self { socket, pipe: None, threads: Vec::new(), error: Arc::default() }
    }

    /// Reads the next byte, with which descriptors come, and has the kernel drop these. `None`, and
    /// nothing is read, if no thread can do it.
    ///
    /// # Errors
    ///
    /// Those of splice(2). Nothing may be read from the socket meanwhile.
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

    /// Returns what wakes a thread that has nothing to do, and is not woken by anything else.
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
                    // Another byte for the one that did not come. An empty pipe has room for it.
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

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
//! before the release begins: the connection goes on with it, whether the thread comes back or not.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use super::link::Link;
use super::lock;
use crate::lock::closer;

/// How many threads may hang. When all do, descriptors are received, and wait to be closed.
const THREADS: usize = 64;
/// The stack of such a thread, in bytes.
const STACK: usize = 64 << 10;

/// Drops descriptors of one connection.
#[derive(Debug)]
pub(super) struct Discard {
    link: Arc<Link>,
    pipe: Option<(PipeReader, Arc<PipeWriter>)>,
    threads: Vec<Worker>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

#[derive(Debug)]
struct Worker {
    /// Wakes the thread.
    begin: mpsc::Sender<()>,
    /// Whether it has something to do, or hangs.
    busy: Arc<AtomicBool>,
}

impl Discard {
    /// Drops descriptors that come over this link.
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, pipe: None, threads: Vec::new(), failure: Arc::default() }
    }

    /// Reads the next byte, with which descriptors come, and has the kernel drop these. `None`, and
    /// nothing is read, if no thread can do it.
    ///
    /// # Errors
    ///
    /// Those of splice(2). Nothing may be read from the link meanwhile.
    pub(super) fn next_byte(&mut self) -> io::Result<Option<u8>> {
        let Some(begin) = self.thread() else { return Ok(None) };
        let Some((pipe, _)) = &mut self.pipe else { return Ok(None) };
        if begin.send(()).is_err() {
            return Ok(None);
        }
        let mut byte = [0];
        pipe.read_exact(&mut byte)?;
        match lock(&self.failure).take() {
            Some(error) => Err(error),
            None => Ok(Some(byte[0])),
        }
    }

    /// Returns what wakes a thread that has nothing to do, and is not woken by anything else.
    fn thread(&mut self) -> Option<mpsc::Sender<()>> {
        let free = |worker: &&Worker| !worker.busy.swap(true, Ordering::AcqRel);
        if let Some(worker) = self.threads.iter().find(free) {
            return Some(worker.begin.clone());
        }
        if self.threads.len() >= THREADS {
            return None;
        }
        if self.pipe.is_none() {
            let (reader, writer) = io::pipe().ok()?;
            self.pipe = Some((reader, Arc::new(writer)));
        }
        let (_, pipe) = self.pipe.as_ref()?;
        let (begin, begins) = mpsc::channel();
        let busy = Arc::new(AtomicBool::new(true));
        let worker = Worker { begin: begin.clone(), busy: Arc::clone(&busy) };
        let (link, pipe) = (Arc::clone(&self.link), Arc::clone(pipe));
        let failure = Arc::clone(&self.failure);
        let run = move || {
            for () in begins {
                if let Err(error) = closer::tracked(|| link.splice_byte(&*pipe)) {
                    *lock(&failure) = Some(error);
                    // Another byte for the one that did not come. An empty pipe has room for it.
                    let _ = (&*pipe).write(&[0]);
                }
                busy.store(false, Ordering::Release);
            }
        };
        let builder = thread::Builder::new().name("discard".to_owned()).stack_size(STACK);
        builder.spawn(run).ok()?;
        self.threads.push(worker);
        Some(begin)
    }
}

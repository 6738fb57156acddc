//! Descriptors that callers have passed, and how they are closed.
//!
//! `close(2)` may take as long as the sender wishes: of a socket with `SO_LINGER`, of a file on
//! FUSE. Nothing tells beforehand whether it will, nor which copy is the last. So the event loop
//! never closes what was received: threads that do nothing else close it. One that hangs is left;
//! their number is bounded, and while all of them hang, descriptors wait in a queue.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::gettid;

use super::passed::Look;

/// How many threads close descriptors at most.
const THREADS: usize = 32;
/// How long a thread waits for the next descriptor before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// A descriptor that a caller passed. To drop it does not close it at once, and never blocks.
#[derive(Debug)]
pub struct Received(Option<OwnedFd>);

impl Received {
    /// Returns the descriptor if it is that of a process, whose `close(2)` never blocks.
    #[must_use]
    pub fn into_process(mut self) -> Option<OwnedFd> {
        let is_process = Look::at(self.as_fd()).is_ok_and(|look| look.is_process());
        if is_process { self.0.take() } else { None }
    }

    /// Closes it now. Not for the event loop: a local file system may have to write back first.
    pub fn close(mut self) {
        drop(self.0.take());
    }

    /// Returns the descriptor. The caller answers for how it is closed.
    #[must_use]
    pub fn into_inner(mut self) -> Option<OwnedFd> {
        self.0.take()
    }
}

impl From<OwnedFd> for Received {
    fn from(fd: OwnedFd) -> Self {
        Self(Some(fd))
    }
}

impl AsFd for Received {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Some(fd) => fd.as_fd(),
            // Only the methods that consume it take it out.
            None => unreachable!("a descriptor that was taken out is borrowed"),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            CLOSER.close(fd);
        }
    }
}

/// How many descriptors the kernel has been closing for at least this long, uninterruptibly: such a
/// thread would hold up an `execve(2)`, which ends all other threads.
#[must_use]
pub fn hung(for_at_least: Duration) -> usize {
    let state = CLOSER.state();
    let old = state.closing.iter().filter(|closing| closing.begun.elapsed() >= for_at_least);
    old.filter(|closing| is_uninterruptible(closing.thread)).count()
}

fn is_uninterruptible(thread: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", thread.as_raw_pid()));
    // The name, in parentheses, may hold anything (proc_pid_stat(5)).
    stat.is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" D")))
}

static CLOSER: Closer = Closer {
    state: Mutex::new(State { queue: VecDeque::new(), closing: Vec::new(), idle: 0, threads: 0 }),
    more: Condvar::new(),
};

/// The threads that close descriptors.
struct Closer {
    state: Mutex<State>,
    more: Condvar,
}

struct State {
    queue: VecDeque<OwnedFd>,
    /// What is under way.
    closing: Vec<Closing>,
    /// How many threads wait for a descriptor.
    idle: usize,
    threads: usize,
}

/// A call of `close(2)`.
struct Closing {
    begun: Instant,
    thread: Pid,
}

impl Closer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&'static self, fd: OwnedFd) {
        let mut state = self.state();
        state.queue.push_back(fd);
        if state.idle >= state.queue.len() {
            self.more.notify_one();
        } else if state.threads < THREADS {
            state.threads += 1;
            drop(state);
            let builder = thread::Builder::new().name("closer".to_owned());
            if builder.spawn(|| self.run()).is_err() {
                // Another thread, or the next descriptor's, closes it.
                self.state().threads -= 1;
            }
        }
    }

    fn run(&self) {
        let thread = gettid();
        let mut state = self.state();
        loop {
            if let Some(fd) = state.queue.pop_front() {
                state.closing.push(Closing { begun: Instant::now(), thread });
                drop(state);
                drop(fd);
                state = self.state();
                state.closing.retain(|closing| closing.thread != thread);
                continue;
            }
            state.idle += 1;
            let waited = self.more.wait_timeout(state, IDLE);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_is_dropped_is_closed() {
        let (mut ours, theirs) = io::pipe().unwrap();
        drop(Received::from(OwnedFd::from(theirs)));
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_descriptor_whose_close_blocks_blocks_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let lingering = || {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (peer, _) = listener.accept().unwrap();
            nix::sys::socket::setsockopt(
                &stream,
                nix::sys::socket::sockopt::Linger,
                &nix::libc::linger { l_onoff: 1, l_linger: 60 },
            )
            .unwrap();
            stream.set_nonblocking(true).unwrap();
            while io::Write::write(&mut &stream, &[0; 1 << 14]).is_ok() {}
            (OwnedFd::from(stream), peer)
        };
        let (sockets, peers): (Vec<_>, Vec<_>) = (0..3).map(|_| lingering()).unzip();
        let begun = Instant::now();
        sockets.into_iter().map(Received::from).for_each(drop);
        let (mut ours, theirs) = io::pipe().unwrap();
        drop(Received::from(OwnedFd::from(theirs)));
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        assert!(begun.elapsed() < Duration::from_secs(60));
        // They can be interrupted.
        assert_eq!(hung(Duration::ZERO), 0);
        assert_eq!(CLOSER.state().closing.len(), 3);
        drop(peers);
    }
}

//! Sends entries to journald without blocking the service.
//!
//! An entry is sent at once if journald accepts it: one system call. Otherwise a thread sends it later,
//! from a bounded queue. Entries that do not fit into the queue are dropped and counted, and the count
//! is logged once journald accepts entries again.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr, sendto,
};

use super::journal::Line;

/// The socket of journald.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The largest number of queued entries.
const QUEUE: usize = 4096;
/// The delay before the next attempt while journald does not listen.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait at the end of the program for queued entries.
const PATIENCE: Duration = Duration::from_secs(1);

/// A queue of entries for journald.
#[derive(Debug, Clone)]
pub(super) struct Post {
    wire: Arc<Wire>,
    queue: SyncSender<Vec<u8>>,
}

#[derive(Debug)]
struct Wire {
    socket: UnixDatagram,
    address: SocketAddrUnix,
    /// The number of entries in the queue, or taken from it and not sent yet.
    waiting: AtomicUsize,
    /// The number of entries that were dropped.
    dropped: AtomicUsize,
}

impl Post {
    /// Opens the socket, and starts the thread.
    pub(super) fn open() -> io::Result<Self> {
        Self::to(SocketAddrUnix::new(SOCKET)?)
    }

    fn to(address: SocketAddrUnix) -> io::Result<Self> {
        let (waiting, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let wire = Wire { socket: UnixDatagram::unbound()?, address, waiting, dropped };
        match wire.send(&[], SendFlags::DONTWAIT) {
            // journald ignores an empty message.
            Ok(()) | Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        let wire = Arc::new(wire);
        let (queue, queued) = sync_channel(QUEUE);
        let theirs = Arc::clone(&wire);
        thread::Builder::new().name("log".to_owned()).spawn(move || theirs.serve(&queued))?;
        Ok(Self { wire, queue })
    }

    /// Sends an entry, at once or from the queue.
    pub(super) fn send(&self, line: Vec<u8>) {
        let wire = &self.wire;
        // The order of entries is kept.
        if wire.waiting.load(Ordering::Acquire) == 0
            && wire.send(&line, SendFlags::DONTWAIT).is_ok()
        {
            return;
        }
        wire.waiting.fetch_add(1, Ordering::AcqRel);
        if self.queue.try_send(line).is_err() {
            wire.waiting.fetch_sub(1, Ordering::AcqRel);
            wire.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits a short time for queued entries, before the program ends.
    pub(super) fn finish(&self) {
        let begun = Instant::now();
        while self.wire.waiting.load(Ordering::Acquire) > 0 && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Wire {
    /// Sends one entry after the other, and waits for journald as long as necessary.
    fn serve(&self, queue: &Receiver<Vec<u8>>) {
        // Signals are handled by the main thread. Blocking all of them can't fail.
        let _ = SigSet::all().thread_block();
        for line in queue {
            self.send_somehow(&line);
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            match self.dropped.swap(0, Ordering::Relaxed) {
                0 => {}
                messages => self.send_somehow(&Line::of(&format!(
                    "{messages} messages lost: journald was not accepting input"
                ))),
            }
        }
    }

    fn send_somehow(&self, line: &[u8]) {
        loop {
            match self.send(line, SendFlags::empty()) {
                Ok(()) => return,
                Err(Errno::INTR) => {}
                // journald is being restarted, or memory is short.
                Err(
                    Errno::NOENT
                    | Errno::CONNREFUSED
                    | Errno::CONNRESET
                    | Errno::AGAIN
                    | Errno::NOBUFS
                    | Errno::NOMEM
                    | Errno::MFILE
                    | Errno::NFILE,
                ) => thread::sleep(PAUSE),
                // This error can't be reported anywhere else.
                Err(_) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    fn send(&self, line: &[u8], flags: SendFlags) -> Result<(), Errno> {
        let flags = flags | SendFlags::NOSIGNAL;
        match sendto(&self.socket, line, flags, &self.address) {
            Err(Errno::MSGSIZE) => self.send_large(line, flags),
            sent => sent.map(drop),
        }
    }

    /// Sends an entry that is too large for a datagram as a sealed file in memory.
    fn send_large(&self, line: &[u8], flags: SendFlags) -> Result<(), Errno> {
        let memory = memfd_create("vmlockd-log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut memory = std::fs::File::from(memory);
        memory
            .write_all(line)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals)?;
        let descriptors = [memory.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // The buffer has the size of this message.
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg_addr(&self.socket, &self.address, &[], &mut control, flags).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket of journald that the test reads.
    fn journal() -> (UnixDatagram, Post, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let post = Post::to(SocketAddrUnix::new(&path).unwrap()).unwrap();
        let mut first = [0; 8];
        assert_eq!(journal.recv(&mut first).unwrap(), 0);
        (journal, post, dir)
    }

    fn next(journal: &UnixDatagram) -> String {
        let mut line = [0; 4096];
        let length = journal.recv(&mut line).unwrap();
        String::from_utf8_lossy(&line[..length]).into_owned()
    }

    #[test]
    fn a_journald_that_is_stopped_blocks_no_caller_and_gets_all_entries_in_order() {
        let (journal, post, _dir) = journal();
        for n in 0..1000 {
            post.send(format!("{n}").into_bytes());
        }
        for n in 0..1000 {
            assert_eq!(next(&journal), n.to_string());
        }
        post.finish();
        post.send(b"after".to_vec());
        assert_eq!(next(&journal), "after");
    }

    #[test]
    fn entries_that_do_not_fit_are_counted() {
        let (journal, post, _dir) = journal();
        // Some entries are in the socket's own queue, and the thread has one.
        let sent = QUEUE + 10_000;
        for n in 0..sent {
            post.send(format!("{n}").into_bytes());
        }
        let (mut there, mut missing) = (0, 0);
        while there + missing < sent {
            let line = next(&journal);
            match line.strip_suffix(" messages lost: journald was not accepting input\n") {
                None => there += 1,
                // The length of the message, in 8 bytes, is in front of it.
                Some(rest) => {
                    let count = rest.rsplit(|c: char| !c.is_ascii_digit()).next();
                    missing += count.unwrap().parse::<usize>().unwrap();
                }
            }
        }
        assert!(there >= QUEUE && missing > 0, "{there} and {missing}");
        assert_eq!(there + missing, sent);
    }

    #[test]
    fn an_entry_that_is_too_large_for_a_datagram_is_sent_as_a_file() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        use std::io::{IoSliceMut, Read as _};
        let (journal, post, _dir) = journal();
        post.send(vec![b'x'; 4 << 20]);
        let mut bytes = [0; 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&journal, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert_eq!(got.bytes, 0);
        let Some(RecvAncillaryMessage::ScmRights(mut files)) = control.drain().next() else {
            panic!("no descriptor");
        };
        let mut file = std::fs::File::from(files.next().unwrap());
        std::io::Seek::rewind(&mut file).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert!(text.len() == 4 << 20 && text.bytes().all(|c| c == b'x'));
    }
}

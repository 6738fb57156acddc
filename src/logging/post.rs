//! The way to the journal, which never holds anybody up.
//!
//! A line is sent at once where the journal takes it: one system call. Where it does not, because
//! too much came at one time or because it stands still, lines queue up for a thread that waits in
//! their stead; should that be too many, they are counted, and that is said once it goes on.

use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, sendto};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::journal::Line;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// How many lines wait, at most.
const QUEUE: usize = 4096;
/// Until the journal is tried again where nobody listens.
const PAUSE: Duration = Duration::from_millis(100);
/// How long whoever ends waits for what is left to be said.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the journal.
#[derive(Debug, Clone)]
pub(super) struct Post {
    wire: Arc<Wire>,
    queue: SyncSender<Vec<u8>>,
}

#[derive(Debug)]
struct Wire {
    socket: UnixDatagram,
    address: UnixAddr,
    /// How many lines are in the queue, or taken from it and not sent yet.
    waiting: AtomicUsize,
    /// How many found no place in it.
    dropped: AtomicUsize,
}

impl Post {
    /// Finds the journal.
    pub(super) fn open() -> io::Result<Self> {
        Self::to(UnixAddr::new(SOCKET)?)
    }

    fn to(address: UnixAddr) -> io::Result<Self> {
        let (waiting, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let wire = Wire { socket: UnixDatagram::unbound()?, address, waiting, dropped };
        match wire.send(&[], MsgFlags::MSG_DONTWAIT) {
            // journald takes no notice of an empty message.
            Ok(()) | Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        let wire = Arc::new(wire);
        let (queue, queued) = sync_channel(QUEUE);
        let theirs = Arc::clone(&wire);
        thread::Builder::new().name("log".to_owned()).spawn(move || theirs.serve(&queued))?;
        Ok(Self { wire, queue })
    }

    /// Sends a line, sooner or later.
    pub(super) fn send(&self, line: Vec<u8>) {
        let wire = &self.wire;
        // None overtakes those that wait.
        if wire.waiting.load(Ordering::Acquire) == 0
            && wire.send(&line, MsgFlags::MSG_DONTWAIT).is_ok()
        {
            return;
        }
        wire.waiting.fetch_add(1, Ordering::AcqRel);
        if self.queue.try_send(line).is_err() {
            wire.waiting.fetch_sub(1, Ordering::AcqRel);
            wire.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits a little for what is not sent yet, before the program ends.
    pub(super) fn finish(&self) {
        let begun = Instant::now();
        while self.wire.waiting.load(Ordering::Acquire) > 0 && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Wire {
    /// Sends one line after the other, and waits for the journal as long as it takes.
    fn serve(&self, queue: &Receiver<Vec<u8>>) {
        // Signals are the main thread's. All can be blocked, so this can't fail.
        let _ = SigSet::all().thread_block();
        for line in queue {
            self.send_somehow(&line);
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            match self.dropped.swap(0, Ordering::Relaxed) {
                0 => {}
                lines => self.send_somehow(&Line::of(&format!(
                    "lines of this log that are missing here, as the journal took none: {lines}"
                ))),
            }
        }
    }

    fn send_somehow(&self, line: &[u8]) {
        loop {
            match self.send(line, MsgFlags::empty()) {
                Ok(()) => return,
                Err(Errno::EINTR) => {}
                // It is being started again, or memory is short.
                Err(
                    Errno::ENOENT
                    | Errno::ECONNREFUSED
                    | Errno::ECONNRESET
                    | Errno::EAGAIN
                    | Errno::ENOBUFS
                    | Errno::ENOMEM
                    | Errno::EMFILE
                    | Errno::ENFILE,
                ) => thread::sleep(PAUSE),
                // Nobody could be told but by this very way.
                Err(_) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    fn send(&self, line: &[u8], flags: MsgFlags) -> Result<(), Errno> {
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        match sendto(self.socket.as_raw_fd(), line, &self.address, flags) {
            Err(Errno::EMSGSIZE) => self.send_large(line, flags),
            sent => sent.map(drop),
        }
    }

    /// What is too large for a message comes as a file in memory that can't change any more.
    fn send_large(&self, line: &[u8], flags: MsgFlags) -> Result<(), Errno> {
        let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
        let memory = memfd_create("vmlockd-log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
        let mut memory = std::fs::File::from(memory.map_err(|error| errno(error.into()))?);
        memory.write_all(line).map_err(errno)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals).map_err(|error| errno(error.into()))?;
        let descriptors = [memory.as_raw_fd()];
        let passed = [ControlMessage::ScmRights(&descriptors)];
        sendmsg(self.socket.as_raw_fd(), &[], &passed, flags, Some(&self.address)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal that reads when it is told to.
    fn journal() -> (UnixDatagram, Post, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let post = Post::to(UnixAddr::new(&path).unwrap()).unwrap();
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
    fn a_journal_that_stands_still_holds_nobody_up_and_gets_all_in_order() {
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
    fn what_finds_no_place_is_counted() {
        let (journal, post, _dir) = journal();
        // Some are in the socket's own queue, and one is on its way.
        let sent = QUEUE + 10_000;
        for n in 0..sent {
            post.send(format!("{n}").into_bytes());
        }
        let (mut there, mut missing) = (0, 0);
        while there + missing < sent {
            match next(&journal).rsplit_once("took none: ") {
                None => there += 1,
                Some((_, count)) => missing += count.trim_end().parse::<usize>().unwrap(),
            }
        }
        assert!(there >= QUEUE && missing > 0, "{there} and {missing}");
        assert_eq!(there + missing, sent);
    }

    #[test]
    fn what_is_too_large_for_a_message_comes_as_a_file() {
        use nix::sys::socket::{ControlMessageOwned, recvmsg};
        use std::io::{IoSliceMut, Read as _};
        let (journal, post, _dir) = journal();
        post.send(vec![b'x'; 4 << 20]);
        let (mut bytes, mut space) = ([0; 16], nix::cmsg_space!(i32));
        let mut into = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let got = recvmsg::<UnixAddr>(journal.as_raw_fd(), &mut into, Some(&mut space), flags);
        let got = got.unwrap();
        assert_eq!(got.bytes, 0);
        let Some(ControlMessageOwned::ScmRights(files)) = got.cmsgs().unwrap().next() else {
            panic!("no file");
        };
        // Read by its name: whoever owns the number can't be told without `unsafe`.
        let mut file = std::fs::File::open(format!("/proc/self/fd/{}", files[0])).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert!(text.len() == 4 << 20 && text.bytes().all(|c| c == b'x'));
        nix::unistd::close(files[0]).unwrap();
    }
}

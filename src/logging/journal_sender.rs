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

use super::journal::Entry;

/// The socket of journald.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The largest number of queued entries.
const MAX_QUEUED: usize = 4096;
/// The delay before a retry while journald does not listen.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// How long [`JournalSender::flush`] waits for queued entries.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A sender of entries, with a queue.
#[derive(Debug, Clone)]
pub(super) struct JournalSender {
    socket: Arc<JournalSocket>,
    queue: SyncSender<Vec<u8>>,
}

/// The socket of journald, with the counters that sender and thread share.
#[derive(Debug)]
struct JournalSocket {
    socket: UnixDatagram,
    address: SocketAddrUnix,
    /// The number of entries that are in the queue, or are being sent from it.
    queued: AtomicUsize,
    /// The number of entries that were dropped.
    dropped: AtomicUsize,
}

impl JournalSender {
    /// Opens the socket, and starts the thread.
    pub(super) fn open() -> io::Result<Self> {
        Self::to(SocketAddrUnix::new(SOCKET)?)
    }

    fn to(address: SocketAddrUnix) -> io::Result<Self> {
        let (queued, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let socket = UnixDatagram::unbound()?;
        let socket = JournalSocket { socket, address, queued, dropped };
        match socket.send(&[], SendFlags::DONTWAIT) {
            // journald ignores an empty message.
            Ok(()) | Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        let socket = Arc::new(socket);
        let (queue, entries) = sync_channel(MAX_QUEUED);
        let of_thread = Arc::clone(&socket);
        let run = move || of_thread.send_queued(&entries);
        thread::Builder::new().name("log".to_owned()).spawn(run)?;
        Ok(Self { socket, queue })
    }

    /// Sends an entry, at once or from the queue.
    pub(super) fn send(&self, entry: Vec<u8>) {
        let socket = &self.socket;
        // Entries are sent in order, so none is sent at once while others are queued.
        if socket.queued.load(Ordering::Acquire) == 0
            && socket.send(&entry, SendFlags::DONTWAIT).is_ok()
        {
            return;
        }
        socket.queued.fetch_add(1, Ordering::AcqRel);
        if self.queue.try_send(entry).is_err() {
            socket.queued.fetch_sub(1, Ordering::AcqRel);
            socket.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits a short time for queued entries, before the program ends.
    pub(super) fn flush(&self) {
        let begun = Instant::now();
        while self.socket.queued.load(Ordering::Acquire) > 0 && begun.elapsed() < FLUSH_TIMEOUT {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl JournalSocket {
    /// Sends one entry of the queue after the other, for as long as the program runs.
    fn send_queued(&self, entries: &Receiver<Vec<u8>>) {
        // The main thread handles signals. Blocking all of them cannot fail.
        let _ = SigSet::all().thread_block();
        for entry in entries {
            self.send_with_retry(&entry);
            self.queued.fetch_sub(1, Ordering::AcqRel);
            match self.dropped.swap(0, Ordering::Relaxed) {
                0 => {}
                messages => self.send_with_retry(&Entry::warning(&format!(
                    "{messages} messages lost: journald was not accepting input"
                ))),
            }
        }
    }

    /// Sends an entry, and waits for journald as long as necessary.
    fn send_with_retry(&self, entry: &[u8]) {
        loop {
            match self.send(entry, SendFlags::empty()) {
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
                ) => thread::sleep(RETRY_DELAY),
                // The log is the only place where this error could be reported.
                Err(_) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    fn send(&self, entry: &[u8], flags: SendFlags) -> Result<(), Errno> {
        let flags = flags | SendFlags::NOSIGNAL;
        match sendto(&self.socket, entry, flags, &self.address) {
            Err(Errno::MSGSIZE) => self.send_large(entry, flags),
            sent => sent.map(drop),
        }
    }

    /// Sends an entry that is too large for a datagram as a sealed file in memory.
    fn send_large(&self, entry: &[u8], flags: SendFlags) -> Result<(), Errno> {
        let memory = memfd_create("vmlockd-log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut memory = std::fs::File::from(memory);
        memory
            .write_all(entry)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals)?;
        let descriptors = [memory.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // Cannot fail: the buffer has the size of this message.
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg_addr(&self.socket, &self.address, &[], &mut control, flags).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a socket in place of that of journald.
    fn journal() -> (UnixDatagram, JournalSender, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let sender = JournalSender::to(SocketAddrUnix::new(&path).unwrap()).unwrap();
        let mut first = [0; 8];
        assert_eq!(journal.recv(&mut first).unwrap(), 0);
        (journal, sender, dir)
    }

    fn receive(journal: &UnixDatagram) -> String {
        let mut entry = [0; 4096];
        let length = journal.recv(&mut entry).unwrap();
        String::from_utf8_lossy(&entry[..length]).into_owned()
    }

    #[test]
    fn a_journald_that_is_stopped_blocks_no_caller_and_gets_all_entries_in_order() {
        let (journal, sender, _dir) = journal();
        for n in 0..1000 {
            sender.send(format!("{n}").into_bytes());
        }
        for n in 0..1000 {
            assert_eq!(receive(&journal), n.to_string());
        }
        sender.flush();
        sender.send(b"after".to_vec());
        assert_eq!(receive(&journal), "after");
    }

    #[test]
    fn entries_that_do_not_fit_are_counted() {
        let (journal, sender, _dir) = journal();
        // The queue of the socket has some entries, and the thread has one.
        let sent = MAX_QUEUED + 10_000;
        for n in 0..sent {
            sender.send(format!("{n}").into_bytes());
        }
        let (mut received, mut lost) = (0, 0);
        while received + lost < sent {
            let entry = receive(&journal);
            match entry.strip_suffix(" messages lost: journald was not accepting input\n") {
                None => received += 1,
                // The length of the message, in 8 bytes, precedes the digits.
                Some(rest) => {
                    let count = rest.rsplit(|c: char| !c.is_ascii_digit()).next();
                    lost += count.unwrap().parse::<usize>().unwrap();
                }
            }
        }
        assert!(received >= MAX_QUEUED && lost > 0, "{received} and {lost}");
        assert_eq!(received + lost, sent);
    }

    #[test]
    fn an_entry_that_is_too_large_for_a_datagram_is_sent_as_a_file() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        use std::io::{IoSliceMut, Read as _};
        let (journal, sender, _dir) = journal();
        sender.send(vec![b'x'; 4 << 20]);
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

//! Sends entries to journald without blocking the service.
//!
//! journald may be stopped or busy, so a separate thread sends the entries, from a bounded [`LogQueue`]. An
//! entry is one datagram.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr, sendto,
};

use super::journal::Entry;
use super::queue::{LogQueue, Sink, Urgency};

/// The socket of journald.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The delay before a retry while journald does not listen.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A sender of entries, with a queue.
#[derive(Debug, Clone)]
pub(super) struct JournalSender(Arc<LogQueue>);

/// The socket of journald.
#[derive(Debug)]
struct JournalSocket {
    socket: UnixDatagram,
    address: SocketAddrUnix,
}

impl JournalSender {
    /// Opens the socket, and starts the thread.
    pub(super) fn open() -> io::Result<Self> {
        Self::to(SocketAddrUnix::new(SOCKET)?)
    }

    fn to(address: SocketAddrUnix) -> io::Result<Self> {
        let socket = JournalSocket { socket: UnixDatagram::unbound()?, address };
        match socket.send(&[], SendFlags::DONTWAIT) {
            // journald ignores an empty message.
            Ok(()) | Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        LogQueue::start(socket).map(Self)
    }

    /// Queues an entry.
    pub(super) fn send(&self, urgency: Urgency, entry: &[u8]) {
        self.0.push(urgency, entry);
    }

    /// Waits a short time for queued entries, before the program ends.
    pub(super) fn flush(&self) {
        self.0.flush();
    }
}

impl Sink for JournalSocket {
    const MAX_LINES: usize = 1;

    fn write(&mut self, entry: &[u8]) -> bool {
        loop {
            match self.send(entry, SendFlags::empty()) {
                Ok(()) => return true,
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
                Err(_) => return false,
            }
        }
    }

    fn report_dropped(&mut self, lines: u64) {
        let message = format!("{lines} messages lost: journald was not accepting input");
        self.write(&Entry::warning(&message));
    }
}

impl JournalSocket {
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
    use super::super::queue::MAX_LINES;
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
            sender.send(Urgency::Low, format!("{n}").as_bytes());
        }
        for n in 0..1000 {
            assert_eq!(receive(&journal), n.to_string());
        }
        sender.flush();
        sender.send(Urgency::Low, b"after");
        assert_eq!(receive(&journal), "after");
    }

    #[test]
    fn entries_that_do_not_fit_are_counted() {
        let (journal, sender, _dir) = journal();
        // The queue of the socket has some entries, and the thread has one.
        let sent = MAX_LINES + 10_000;
        for n in 0..sent {
            sender.send(Urgency::High, format!("{n}").as_bytes());
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
        assert!(received >= MAX_LINES && lost > 0, "{received} and {lost}");
        assert_eq!(received + lost, sent);
    }

    #[test]
    fn an_entry_that_is_too_large_for_a_datagram_is_sent_as_a_file() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        use std::io::{IoSliceMut, Read as _};
        let (journal, sender, _dir) = journal();
        sender.send(Urgency::Low, &vec![b'x'; 4 << 20]);
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

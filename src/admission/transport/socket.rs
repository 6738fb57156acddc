//! A socket to the bus or to a client of the private socket: receives bytes and descriptors, and
//! sends messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Notify};
use zbus::address::Transport;
use zbus::address::transport::UnixSocket;

use crate::bus::Bus;
use crate::lock::descriptor::received::Received;
use crate::registration::register;

/// The maximum number of descriptors in a message: the kernel's `SCM_MAX_FD`.
const MAX_DESCRIPTORS: usize = 253;
/// The length of the buffer for the ancillary data of a message.
const CONTROL_LEN: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// The outcome of one read.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::admission) struct ReadOutcome {
    /// The number of bytes.
    pub(in crate::admission) bytes: usize,
    /// Whether descriptors came with these bytes. If so, the read ended after these bytes, also if
    /// more data was there.
    pub(in crate::admission) has_descriptors: bool,
    /// Whether descriptors that came with these bytes were not received. They belong to the last
    /// message that begins in these bytes, since a read ends after the bytes with which descriptors
    /// come.
    pub(in crate::admission) lost_descriptors: bool,
}

/// A connected socket.
#[derive(Debug)]
pub(in crate::admission) struct ConnectedSocket {
    socket: AsyncFd<OwnedFd>,
    unsent: Mutex<SendBuffer>,
    /// Whether a message waits until the receiver accepts it.
    is_send_blocked: AtomicBool,
    /// The number of bytes sent.
    bytes_sent: AtomicU64,
    /// Notified when bytes were sent, and when the connection is closed.
    activity: Notify,
    closed: AtomicBool,
}

/// The bytes that must be sent before any other: the rest of a message that is partly sent, and
/// complete refusals after it.
#[derive(Debug, Default)]
struct SendBuffer(Vec<u8>);

impl ConnectedSocket {
    /// Connects to a bus. Its [`Readiness`](super::readiness::Readiness) registers it for reading.
    ///
    /// # Errors
    ///
    /// [`zbus::Error`]. Only Unix sockets are supported.
    pub(in crate::admission) async fn connect(bus: Bus) -> zbus::Result<Self> {
        let address = match bus {
            Bus::System => zbus::Address::system(),
            Bus::Session => zbus::Address::session(),
        }?;
        let path = socket_path(address.transport()).ok_or(zbus::Error::Unsupported)?;
        let stream = UnixStream::connect(path).await?;
        Ok(Self::with_interest(stream, Interest::WRITABLE)?)
    }

    /// Wraps a connected socket.
    ///
    /// # Errors
    ///
    /// The errors of `epoll_ctl(2)`.
    pub(in crate::admission) fn from_stream(stream: UnixStream) -> io::Result<Self> {
        Self::with_interest(stream, Interest::READABLE | Interest::WRITABLE)
    }

    fn with_interest(stream: UnixStream, interest: Interest) -> io::Result<Self> {
        Ok(Self {
            socket: register(stream.into_std()?.into(), interest)?,
            unsent: Mutex::default(),
            is_send_blocked: AtomicBool::new(false),
            bytes_sent: AtomicU64::new(0),
            activity: Notify::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// Waits until the socket is readable.
    pub(in crate::admission) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await?.retain_ready();
        Ok(())
    }

    /// Receives available bytes, and the descriptors that come with them.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if no data is available; `UnexpectedEof` at the end of the stream.
    pub(in crate::admission) fn receive(
        &self,
        buffer: &mut [u8],
        descriptors: &mut impl Extend<Received>,
    ) -> io::Result<ReadOutcome> {
        self.socket.try_io(Interest::READABLE, |_| self.receive_now(buffer, descriptors))
    }

    /// Receives available bytes like [`receive`](Self::receive), on any thread.
    ///
    /// # Errors
    ///
    /// The errors of [`receive`](Self::receive).
    pub(in crate::admission) fn receive_now(
        &self,
        buffer: &mut [u8],
        descriptors: &mut impl Extend<Received>,
    ) -> io::Result<ReadOutcome> {
        let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut outcome = self.read(buffer, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                outcome.has_descriptors = true;
                descriptors.extend(received.map(Received::from));
            }
        }
        Ok(outcome)
    }

    /// Copies available bytes without consuming them. Descriptors that come with them are not
    /// copied.
    ///
    /// # Errors
    ///
    /// The errors of [`receive`](Self::receive).
    pub(in crate::admission) fn peek(&self, buffer: &mut [u8]) -> io::Result<ReadOutcome> {
        self.read(buffer, &mut RecvAncillaryBuffer::default(), RecvFlags::PEEK)
    }

    fn read(
        &self,
        buffer: &mut [u8],
        control: &mut RecvAncillaryBuffer<'_>,
        flags: RecvFlags,
    ) -> io::Result<ReadOutcome> {
        let (into, flags) = (&mut [IoSliceMut::new(buffer)], flags | RecvFlags::DONTWAIT);
        let read = rustix::net::recvmsg(self.socket.get_ref(), into, control, flags)?;
        let lost_descriptors = read.flags.contains(ReturnFlags::CTRUNC);
        if read.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(ReadOutcome { bytes: read.bytes, has_descriptors: lost_descriptors, lost_descriptors })
    }

    /// Moves the next byte into a pipe. If descriptors come with the byte, the kernel drops them,
    /// after the byte is in the pipe and before this function returns.
    ///
    /// # Errors
    ///
    /// The errors of splice(2); `UnexpectedEof` at the end of the stream.
    pub(in crate::admission) fn splice_byte(&self, pipe: impl AsFd) -> io::Result<()> {
        match splice(self.socket.get_ref(), None, pipe, None, 1, SpliceFlags::NONBLOCK)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Sends a message, after the bytes that must be sent before it.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub(in crate::admission) async fn send(
        &self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut unsent = self.unsent.lock().await;
        let _clear_blocked = ClearBlocked(&self.is_send_blocked);
        self.send_locked(&mut unsent, bytes, fds).await
    }

    async fn send_locked(
        &self,
        unsent: &mut SendBuffer,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.flush_locked(unsent).await?;
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = loop {
            match self.sendmsg(bytes, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                sent => break sent?,
            }
        };
        // Stored before the next await, so that a cancelled call leaves no incomplete message.
        unsent.0.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        self.flush_locked(unsent).await
    }

    async fn flush_locked(&self, unsent: &mut SendBuffer) -> io::Result<()> {
        while !unsent.0.is_empty() {
            match self.sendmsg(&unsent.0, &[]) {
                Ok(sent) => drop(unsent.0.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        self.is_send_blocked.store(true, Ordering::Relaxed);
        self.socket.writable().await?.retain_ready();
        Ok(())
    }

    fn sendmsg(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
        }
        let sent = self.socket.try_io(Interest::WRITABLE, |_| {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let from = &[IoSlice::new(bytes)];
            Ok(rustix::net::sendmsg(self.socket.get_ref(), from, &mut control, flags)?)
        })?;
        self.bytes_sent.fetch_add(sent as u64, Ordering::Relaxed);
        self.activity.notify_one();
        Ok(sent)
    }

    /// Sends as much of a message as the receiver accepts at once, unless other bytes are being
    /// sent. Returns how many bytes are left, which are sent before any other; `None` if nothing
    /// was sent.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub(in crate::admission) fn try_send(
        &self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Option<usize>> {
        let Ok(mut unsent) = self.unsent.try_lock() else { return Ok(None) };
        if !unsent.0.is_empty() {
            return Ok(None);
        }
        match self.sendmsg(bytes, fds) {
            Ok(sent) => {
                let rest = bytes.get(sent..).unwrap_or_default();
                unsent.0.extend_from_slice(rest);
                Ok(Some(rest.len()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until bytes were sent, or the connection was closed.
    pub(in crate::admission) async fn activity(&self) {
        self.activity.notified().await;
    }

    /// Returns the number of bytes sent since the connection was made.
    pub(in crate::admission) fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed)
    }

    /// Returns whether the connection was closed.
    pub(in crate::admission) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Returns whether a message waits until the receiver accepts it.
    pub(in crate::admission) fn is_send_blocked(&self) -> bool {
        self.is_send_blocked.load(Ordering::Relaxed)
    }

    /// Sends `bytes`, which are complete refusals, as far as the bus accepts them at once. Returns
    /// whether all of them are sent; [`flush`](Self::flush) sends the rest later.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub(in crate::admission) fn try_flush(&self, bytes: &mut Vec<u8>) -> io::Result<bool> {
        let Ok(mut unsent) = self.unsent.try_lock() else { return Ok(bytes.is_empty()) };
        loop {
            if unsent.0.is_empty() {
                std::mem::swap(&mut unsent.0, bytes);
            }
            if unsent.0.is_empty() {
                return Ok(true);
            }
            match self.sendmsg(&unsent.0, &[]) {
                Ok(sent) => drop(unsent.0.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends `bytes`, which are complete refusals, and waits while the bus does not accept them.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub(in crate::admission) async fn flush(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut unsent = self.unsent.lock().await;
        unsent.0.append(bytes);
        let _clear_blocked = ClearBlocked(&self.is_send_blocked);
        self.flush_locked(&mut unsent).await
    }

    /// Closes the connection in both directions.
    ///
    /// # Errors
    ///
    /// The errors of shutdown(2).
    pub(in crate::admission) fn close(&self) -> io::Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        self.activity.notify_one();
        Ok(rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both)?)
    }
}

impl AsFd for ConnectedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// Marks that no message waits for the receiver, on drop.
struct ClearBlocked<'b>(&'b AtomicBool);

impl Drop for ClearBlocked<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Returns the path at which a bus listens.
fn socket_path(transport: &Transport) -> Option<PathBuf> {
    let Transport::Unix(unix) = transport else { return None };
    match unix.path() {
        UnixSocket::File(path) => Some(path.clone()),
        // An address of the abstract namespace begins with a zero byte (unix(7)).
        UnixSocket::Abstract(name) => {
            let bytes = [b"\0", name.as_bytes()].concat();
            Some(Path::new(std::ffi::OsStr::from_bytes(&bytes)).to_owned())
        }
        _ => None,
    }
}

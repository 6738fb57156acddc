//! The connection to the bus: bytes and descriptors in, messages and refusals out.

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
use crate::lock::received::Received;
use crate::registration::register;

/// How many descriptors one message carries at most: the kernel's `SCM_MAX_FD`.
const MAX_DESCRIPTORS: usize = 253;
/// The space for the control part of a message.
const CONTROL_LEN: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// What one read has brought.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::admission) struct ReadOutcome {
    /// How many bytes.
    pub(in crate::admission) bytes: usize,
    /// Whether descriptors came with them: the read ended behind these bytes, whatever is next.
    pub(in crate::admission) has_descriptors: bool,
    /// Whether descriptors that came with these bytes were not received. They belong to the last
    /// message that begins in them: a read ends behind the bytes with which descriptors come.
    pub(in crate::admission) lost_descriptors: bool,
}

/// A connected socket.
#[derive(Debug)]
pub(in crate::admission) struct ConnectedSocket {
    socket: AsyncFd<OwnedFd>,
    unsent: Mutex<SendBuffer>,
    /// Whether the bus does not take what is being sent.
    is_send_blocked: AtomicBool,
    /// How many bytes were sent.
    bytes_sent: AtomicU64,
    /// Notified when something was sent, or the connection is closed.
    activity: Notify,
    closed: AtomicBool,
}

/// What must be sent before anything else: the rest of a message that is sent in part already,
/// and whole refusals after it.
#[derive(Debug, Default)]
struct SendBuffer(Vec<u8>);

impl ConnectedSocket {
    /// Connects to a bus. Its [`Readiness`](crate::admission::transport::readiness::Readiness) says when it may be read.
    ///
    /// # Errors
    ///
    /// [`zbus::Error`]; only Unix sockets are supported.
    pub(in crate::admission) async fn connect(bus: Bus) -> zbus::Result<Self> {
        let address = match bus {
            Bus::System => zbus::Address::system(),
            Bus::Session => zbus::Address::session(),
        }?;
        let path = socket_path(address.transport()).ok_or(zbus::Error::Unsupported)?;
        let stream = UnixStream::connect(path).await?;
        Ok(Self::with_interest(stream, Interest::WRITABLE)?)
    }

    /// Uses a connected socket.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)`.
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

    /// Waits until there is something to read.
    pub(in crate::admission) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads what is there, and the descriptors that come with it.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is nothing; `UnexpectedEof` at the end of the stream.
    pub(in crate::admission) fn receive(
        &self,
        buffer: &mut [u8],
        descriptors: &mut impl Extend<Received>,
    ) -> io::Result<ReadOutcome> {
        self.socket.try_io(Interest::READABLE, |_| self.receive_now(buffer, descriptors))
    }

    /// Reads as [`receive`](Self::receive) does, on any thread.
    ///
    /// # Errors
    ///
    /// Those of [`receive`](Self::receive).
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

    /// Copies what is there and leaves it there. Descriptors that come with it are not copied.
    ///
    /// # Errors
    ///
    /// Those of [`receive`](Self::receive).
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

    /// Moves the next byte into a pipe. If descriptors come with it, the kernel drops them, after the
    /// byte is in the pipe and before this returns.
    ///
    /// # Errors
    ///
    /// Those of splice(2); `UnexpectedEof` at the end of the stream.
    pub(in crate::admission) fn splice_byte(&self, pipe: impl AsFd) -> io::Result<()> {
        match splice(self.socket.get_ref(), None, pipe, None, 1, SpliceFlags::NONBLOCK)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Sends a message, after what must be sent before it.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
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
        // Kept before the next await, so that a caller that gives up leaves no half message.
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

    /// Sends what the bus takes at once of a message, unless something else is being sent. Returns how
    /// many bytes are left, which are sent before anything else; `None` if nothing was sent.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
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

    /// Returns once something was sent, or the connection was closed.
    pub(in crate::admission) async fn activity(&self) {
        self.activity.notified().await;
    }

    /// How many bytes were sent in all.
    pub(in crate::admission) fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed)
    }

    /// Whether the connection was closed.
    pub(in crate::admission) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether a message waits for the bus to take it.
    pub(in crate::admission) fn is_send_blocked(&self) -> bool {
        self.is_send_blocked.load(Ordering::Relaxed)
    }

    /// Sends refusals as far as the bus takes them at once. Returns whether all of them are sent;
    /// [`flush`](Self::flush) sends the rest later.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
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

    /// Sends refusals that the bus did not take at once.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub(in crate::admission) async fn flush(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut unsent = self.unsent.lock().await;
        unsent.0.append(bytes);
        let _clear_blocked = ClearBlocked(&self.is_send_blocked);
        self.flush_locked(&mut unsent).await
    }

    /// Ends the connection.
    ///
    /// # Errors
    ///
    /// Those of shutdown(2).
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

/// Enters that nothing waits for the bus any more, when dropped.
struct ClearBlocked<'b>(&'b AtomicBool);

impl Drop for ClearBlocked<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Where a bus listens.
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

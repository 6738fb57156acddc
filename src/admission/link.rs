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
const DESCRIPTORS: usize = 253;
/// The space for the control part of a message.
const CONTROL: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS));

/// What one read has brought.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Arrived {
    /// How many bytes.
    pub(super) count: usize,
    /// Whether descriptors came with them: the read ended behind these bytes, whatever is next.
    pub(super) descriptors: bool,
    /// Whether descriptors that came with these bytes were not received. They belong to the last
    /// message that begins in them: a read ends behind the bytes with which descriptors come.
    pub(super) lost: bool,
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Link {
    socket: AsyncFd<OwnedFd>,
    outgoing: Mutex<Outgoing>,
    /// Whether the bus does not take what is being sent.
    blocked: AtomicBool,
    /// How many bytes were sent.
    accepted: AtomicU64,
    /// Notified when something was sent, or the connection is closed.
    activity: Notify,
    closed: AtomicBool,
}

/// What must be sent before anything else: the rest of a message that is sent in part already,
/// and whole refusals after it.
#[derive(Debug, Default)]
struct Outgoing(Vec<u8>);

impl Link {
    /// Connects to a bus. Its [`Readiness`](super::readiness::Readiness) says when it may be read.
    ///
    /// # Errors
    ///
    /// [`zbus::Error`]; only Unix sockets are supported.
    pub(super) async fn connect(bus: Bus) -> zbus::Result<Self> {
        let address = match bus {
            Bus::System => zbus::Address::system(),
            Bus::Session => zbus::Address::session(),
        }?;
        let path = path_of(address.transport()).ok_or(zbus::Error::Unsupported)?;
        let stream = UnixStream::connect(path).await?;
        Ok(Self::with_interest(stream, Interest::WRITABLE)?)
    }

    /// Uses a connected socket.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)`.
    pub(super) fn over(stream: UnixStream) -> io::Result<Self> {
        Self::with_interest(stream, Interest::READABLE | Interest::WRITABLE)
    }

    fn with_interest(stream: UnixStream, interest: Interest) -> io::Result<Self> {
        Ok(Self {
            socket: register(stream.into_std()?.into(), interest)?,
            outgoing: Mutex::default(),
            blocked: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            activity: Notify::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// Waits until there is something to read.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads what is there, and the descriptors that come with it.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is nothing; `UnexpectedEof` at the end of the stream.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        descriptors: &mut impl Extend<Received>,
    ) -> io::Result<Arrived> {
        self.socket.try_io(Interest::READABLE, |_| self.receive_now(buffer, descriptors))
    }

    /// Reads as [`receive`](Self::receive) does, on any thread.
    ///
    /// # Errors
    ///
    /// Those of [`receive`](Self::receive).
    pub(super) fn receive_now(
        &self,
        buffer: &mut [u8],
        descriptors: &mut impl Extend<Received>,
    ) -> io::Result<Arrived> {
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut arrived = self.read(buffer, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                arrived.descriptors = true;
                descriptors.extend(received.map(Received::from));
            }
        }
        Ok(arrived)
    }

    /// Copies what is there and leaves it there. Descriptors that come with it are not copied.
    ///
    /// # Errors
    ///
    /// Those of [`receive`](Self::receive).
    pub(super) fn peek(&self, buffer: &mut [u8]) -> io::Result<Arrived> {
        self.read(buffer, &mut RecvAncillaryBuffer::default(), RecvFlags::PEEK)
    }

    fn read(
        &self,
        buffer: &mut [u8],
        control: &mut RecvAncillaryBuffer<'_>,
        flags: RecvFlags,
    ) -> io::Result<Arrived> {
        let (into, flags) = (&mut [IoSliceMut::new(buffer)], flags | RecvFlags::DONTWAIT);
        let read = rustix::net::recvmsg(self.socket.get_ref(), into, control, flags)?;
        let lost = read.flags.contains(ReturnFlags::CTRUNC);
        if read.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Arrived { count: read.bytes, descriptors: lost, lost })
    }

    /// Moves the next byte into a pipe. If descriptors come with it, the kernel drops them, after the
    /// byte is in the pipe and before this returns.
    ///
    /// # Errors
    ///
    /// Those of splice(2); `UnexpectedEof` at the end of the stream.
    pub(super) fn splice_byte(&self, pipe: impl AsFd) -> io::Result<()> {
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
    pub(super) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().await;
        let _unblock = Unblock(&self.blocked);
        self.send_locked(&mut outgoing, bytes, fds).await
    }

    async fn send_locked(
        &self,
        outgoing: &mut Outgoing,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.flush_locked(outgoing).await?;
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = loop {
            match self.try_send(bytes, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                sent => break sent?,
            }
        };
        // Kept before the next await, so that a caller that gives up leaves no half message.
        outgoing.0.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        self.flush_locked(outgoing).await
    }

    async fn flush_locked(&self, outgoing: &mut Outgoing) -> io::Result<()> {
        while !outgoing.0.is_empty() {
            match self.try_send(&outgoing.0, &[]) {
                Ok(sent) => drop(outgoing.0.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        self.blocked.store(true, Ordering::Relaxed);
        self.socket.writable().await?.retain_ready();
        Ok(())
    }

    fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
        }
        let sent = self.socket.try_io(Interest::WRITABLE, |_| {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let from = &[IoSlice::new(bytes)];
            Ok(rustix::net::sendmsg(self.socket.get_ref(), from, &mut control, flags)?)
        })?;
        self.accepted.fetch_add(sent as u64, Ordering::Relaxed);
        self.activity.notify_one();
        Ok(sent)
    }

    /// Sends what the bus takes at once of a message, unless something else is being sent. Returns how
    /// many bytes are left, which are sent before anything else; `None` if nothing was sent.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub(super) fn send_now(
        &self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Option<usize>> {
        let Ok(mut outgoing) = self.outgoing.try_lock() else { return Ok(None) };
        if !outgoing.0.is_empty() {
            return Ok(None);
        }
        match self.try_send(bytes, fds) {
            Ok(sent) => {
                let rest = bytes.get(sent..).unwrap_or_default();
                outgoing.0.extend_from_slice(rest);
                Ok(Some(rest.len()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns once something was sent, or the connection was closed.
    pub(super) async fn activity(&self) {
        self.activity.notified().await;
    }

    /// How many bytes were sent in all.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Whether the connection was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether a message waits for the bus to take it.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Sends refusals as far as the bus takes them at once. Returns whether all of them are sent;
    /// [`flush`](Self::flush) sends the rest later.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub(super) fn refuse(&self, refusals: &mut Vec<u8>) -> io::Result<bool> {
        let Ok(mut outgoing) = self.outgoing.try_lock() else { return Ok(refusals.is_empty()) };
        loop {
            if outgoing.0.is_empty() {
                std::mem::swap(&mut outgoing.0, refusals);
            }
            if outgoing.0.is_empty() {
                return Ok(true);
            }
            match self.try_send(&outgoing.0, &[]) {
                Ok(sent) => drop(outgoing.0.drain(..sent)),
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
    pub(super) async fn flush(&self, refusals: &mut Vec<u8>) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().await;
        outgoing.0.append(refusals);
        let _unblock = Unblock(&self.blocked);
        self.flush_locked(&mut outgoing).await
    }

    /// Ends the connection.
    ///
    /// # Errors
    ///
    /// Those of shutdown(2).
    pub(super) fn close(&self) -> io::Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        self.activity.notify_one();
        Ok(rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both)?)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// Enters that nothing waits for the bus any more, when dropped.
struct Unblock<'b>(&'b AtomicBool);

impl Drop for Unblock<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Where a bus listens.
fn path_of(transport: &Transport) -> Option<PathBuf> {
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

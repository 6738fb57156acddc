//! Sends and receives messages between the service and a worker: one JSON document each, with
//! descriptors.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::io::ioctl_fionbio;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    recvmsg, sendmsg, socket_with, socketpair,
};
use rustix::process::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The maximum length of a message, in bytes.
const MAX_MESSAGE_LEN: usize = 128 * 1024;
/// The maximum number of descriptors in a message. The kernel allows 253 (`SCM_MAX_FD`).
pub(super) const MAX_DESCRIPTORS: usize = 250;
/// The length of the buffer for these descriptors.
const CONTROL_LEN: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Creates a pair of connected sockets.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Connects to a socket that belongs to root, or to the user of this process.
pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    check_peer(&socket)?;
    ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

/// Checks that the peer of a socket runs as root, or as the user of this process.
pub(super) fn check_peer(socket: impl AsFd) -> io::Result<()> {
    // rustix cannot represent a peer in another pid namespace.
    let peer = getsockopt(&socket, PeerCredentials)?.uid();
    if peer == 0 || peer == geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::PermissionDenied, "the peer of the socket is another user"))
}

/// Sends a message.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message; `None` at the end of the stream.
///
/// # Errors
///
/// The errors of recvmsg(2); `InvalidData` for a message that cannot be parsed.
pub(super) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE_LEN];
    let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let messages = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<OwnedFd> = messages.flatten().collect();
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(ErrorKind::InvalidData, "truncated message"));
    }
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn messages_carry_descriptors() {
        let (ours, theirs) = pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        send(&ours, &"one", &[]).unwrap();
        send(&ours, &"two", &[file.as_fd(), file.as_fd()]).unwrap();
        let get = |flags| receive::<String>(&theirs, flags);
        assert_eq!(get(RecvFlags::empty()).unwrap().unwrap().0, "one");
        let (message, fds) = get(RecvFlags::empty()).unwrap().unwrap();
        assert_eq!((message.as_str(), fds.len()), ("two", 2));
        assert_eq!(get(RecvFlags::DONTWAIT).unwrap_err().kind(), ErrorKind::WouldBlock);
        rustix::net::send(&ours, b"none", SendFlags::empty()).unwrap();
        assert!(get(RecvFlags::empty()).is_err());
        drop(ours);
        assert!(get(RecvFlags::empty()).unwrap().is_none());
    }
}

//! A socket pair whose queue holds descriptors.
//!
//! A message carries one key per descriptor. The kernel keeps the descriptors in a queue open as
//! long as the receiving end exists. A read with `MSG_PEEK` returns copies of them and removes
//! nothing. Besides the service, only the service manager has the ends, and it reads nothing.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg,
    sendmsg, socketpair, sockopt,
};

use super::key::StashKey;
use crate::keep::Error;

/// The maximum number of descriptors in one message: the kernel's `SCM_MAX_FD`.
pub(super) const MESSAGE: usize = 253;
/// The size of the send buffer in bytes: the default of `net.core.wmem_max`, which no host has to
/// raise. The kernel doubles it (socket(7)); it holds some 500 messages.
const QUEUE: usize = 212_992;
/// The size of the control part of a message.
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MESSAGE));

/// Two connected sockets, and the messages in the queue between them.
#[derive(Debug)]
pub(super) struct SocketPair {
    /// The number of the pair; unique within its policy.
    pub(super) number: u64,
    /// The name of both ends in the store, without the last letter.
    pub(super) name: String,
    /// The device whose descriptors the pair holds; `None` if it holds descriptors of any device.
    pub(super) device: Option<u64>,
    into: OwnedFd,
    out: OwnedFd,
    /// The keys of each message in the queue, in order.
    pub(super) queue: VecDeque<Vec<StashKey>>,
    /// Whether both ends are in the service manager's store.
    pub(super) stored: bool,
}

/// Returns the name of the end of a pair that messages are written to.
pub(super) fn name_into(pair: &str) -> String {
    format!("{pair}i")
}

/// Returns the name of the end of a pair that has the queue.
pub(super) fn name_out(pair: &str) -> String {
    format!("{pair}o")
}

impl SocketPair {
    /// Creates an empty pair.
    pub(super) fn new(number: u64, name: String) -> Result<Self, Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (into, out) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(Error::system("create a socket pair"))?;
        sockopt::set_socket_send_buffer_size(&into, QUEUE)
            .map_err(Error::system("set the buffer size of a socket pair"))?;
        let queue = VecDeque::new();
        Ok(Self { number, name, device: None, into, out, queue, stored: false })
    }

    /// Reads a pair of an earlier service, and copies of all descriptors in its queue. Removes
    /// nothing from the queue.
    pub(super) fn read(
        number: u64,
        name: String,
        into: OwnedFd,
        out: OwnedFd,
    ) -> Result<(Self, Vec<(StashKey, OwnedFd)>), Error> {
        let (pair, fds) = Self::load(number, name, into, out, MESSAGE)?;
        let found = pair.queue.iter().flatten().copied().zip(fds).collect();
        Ok((pair, found))
    }

    /// Reads a pair of an earlier service, but none of its descriptors: since none is opened, none
    /// has to be closed.
    pub(super) fn read_keys(
        number: u64,
        name: String,
        into: OwnedFd,
        out: OwnedFd,
    ) -> Result<Self, Error> {
        Self::load(number, name, into, out, 0).map(|(pair, _)| pair)
    }

    /// Reads all keys in the queue, and up to `fds` descriptors of each message.
    fn load(
        number: u64,
        name: String,
        into: OwnedFd,
        out: OwnedFd,
        fds: usize,
    ) -> Result<(Self, Vec<OwnedFd>), Error> {
        let queue = VecDeque::new();
        let mut pair = Self { number, name, device: None, into, out, queue, stored: true };
        let (mut all, mut at) = (Vec::new(), 0);
        while let Some((bytes, opened)) = pair.peek(at, fds)? {
            at += bytes.len();
            let keys = decode_keys(&bytes)?;
            if fds > 0 && keys.len() != opened.len() {
                return Err(unexpected());
            }
            all.extend(opened);
            pair.queue.push_back(keys);
        }
        Ok((pair, all))
    }

    /// Returns a copy of the only descriptor in a message, by the index of the message in the
    /// queue. The message stays in the queue.
    pub(super) fn fetch(&self, message: usize) -> Result<OwnedFd, Error> {
        let before = self.queue.iter().take(message).map(|keys| keys.len() * StashKey::LENGTH);
        let seen = self.peek(before.sum(), MESSAGE)?;
        seen.and_then(|(_, mut fds)| fds.pop()).ok_or_else(unexpected)
    }

    /// Sends descriptors into the queue as one message. Returns `false` if the queue has no room.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if more descriptors are in queues than the limit on open files allows
    /// (`ETOOMANYREFS`, unix(7)).
    pub(super) fn send(&mut self, what: &[(StashKey, BorrowedFd<'_>)]) -> Result<bool, Error> {
        let (keys, fds): (Vec<StashKey>, Vec<BorrowedFd<'_>>) = what.iter().copied().unzip();
        let mut bytes = Vec::with_capacity(keys.len() * StashKey::LENGTH);
        for key in &keys {
            key.encode(&mut bytes);
        }
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        match sendmsg(&self.into, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => {
                self.queue.push_back(keys);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE) => Ok(false),
            Err(Errno::TOOMANYREFS) => {
                Err(Error::Full("as many are in flight as the limit on open files allows"))
            }
            Err(errno) => Err(Error::system("store a descriptor")(errno)),
        }
    }

    /// Drops the first message. The kernel closes its descriptors without opening them in this
    /// process first. If one is the last of its description, this may block on its file system.
    pub(super) fn drop_first(&mut self) -> Result<(), Error> {
        if self.queue.pop_front().is_some() {
            let mut nothing = [0u8; 0];
            let cut = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
            recv(&self.out, &mut nothing, cut)
                .map_err(Error::system("discard a stored descriptor"))?;
        }
        Ok(())
    }

    /// Returns both ends: the one that messages are written to, and the one that has the queue.
    pub(super) fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.into.as_fd(), self.out.as_fd()]
    }
}

/// Sets the byte of the queue at which the next peek begins (`SO_PEEK_OFF`, socket(7)).
#[allow(unsafe_code)]
fn peek_from(socket: &OwnedFd, at: usize) -> std::io::Result<()> {
    let at = libc::c_int::try_from(at).map_err(std::io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&at)).map_err(std::io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel reads `length` bytes of `at`, which outlives
    // the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const at).cast(),
            length,
        )
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The bytes and the descriptors of a message.
type Message = (Vec<u8>, Vec<OwnedFd>);

impl SocketPair {
    /// Reads the message that begins at byte `at` of the queue and leaves it there; returns `None`
    /// at the end of the queue. With `fds == 0`, no descriptor is opened.
    fn peek(&self, at: usize, fds: usize) -> Result<Option<Message>, Error> {
        let doing = "read back stored descriptors";
        peek_from(&self.out, at).map_err(Error::system(doing))?;
        let mut bytes = vec![0; MESSAGE * StashKey::LENGTH];
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut none = RecvAncillaryBuffer::default();
        let mut all = RecvAncillaryBuffer::new(&mut space);
        let control = if fds == 0 { &mut none } else { &mut all };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let seen = match recvmsg(&self.out, &mut [IoSliceMut::new(&mut bytes)], control, flags) {
            Ok(seen) if seen.bytes == 0 => return Ok(None),
            Ok(seen) => seen,
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(Error::system(doing)(errno)),
        };
        let messages = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let opened: Vec<OwnedFd> = messages.flatten().collect();
        // The kernel truncated the control part: the descriptors exceed the limit on open files.
        if fds > 0 && seen.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Error::system(doing)(Errno::MFILE));
        }
        bytes.truncate(seen.bytes);
        Ok(Some((bytes, opened)))
    }
}

fn decode_keys(bytes: &[u8]) -> Result<Vec<StashKey>, Error> {
    bytes.chunks(StashKey::LENGTH).map(|key| StashKey::decode(key).ok_or_else(unexpected)).collect()
}

fn unexpected() -> Error {
    let cause = std::io::Error::other("unexpected message");
    Error::System { doing: "read back stored descriptors", cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep::KeyPart;
    use crate::lock::OwnerId;
    use std::fs::File;

    fn key(number: u64) -> StashKey {
        let owner = OwnerId::new(0, uuid::Uuid::from_u128(1));
        StashKey { owner, part: KeyPart::Byte(number, 0) }
    }

    fn inode(fd: impl AsFd) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn queued_descriptors_can_be_read_repeatedly() {
        let files: Vec<File> = (0..5).map(|_| tempfile::tempfile().unwrap()).collect();
        let mut pair = SocketPair::new(1, "p1".into()).unwrap();
        assert!(pair.send(&[(key(0), files[0].as_fd())]).unwrap());
        let two = [(key(1), files[1].as_fd()), (key(2), files[2].as_fd())];
        assert!(pair.send(&two).unwrap());
        assert!(pair.send(&[(key(3), files[3].as_fd())]).unwrap());
        for _ in 0..2 {
            let ends = (pair.into.try_clone().unwrap(), pair.out.try_clone().unwrap());
            let (again, found) = SocketPair::read(1, "p1".into(), ends.0, ends.1).unwrap();
            assert_eq!(again.queue, pair.queue);
            let keys: Vec<StashKey> = found.iter().map(|(key, _)| *key).collect();
            assert_eq!(keys, (0..4).map(key).collect::<Vec<_>>());
            for ((_, fd), file) in found.iter().zip(&files) {
                assert_eq!(inode(fd), inode(file));
            }
        }
        pair.drop_first().unwrap();
        pair.drop_first().unwrap();
        let ends = (pair.into.try_clone().unwrap(), pair.out.try_clone().unwrap());
        let (_, found) = SocketPair::read(1, "p1".into(), ends.0, ends.1).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, inode(&found[0].1)), (key(3), inode(&files[3])));
    }

    #[test]
    fn a_full_queue_rejects_messages() {
        let file = tempfile::tempfile().unwrap();
        let mut pair = SocketPair::new(1, "p1".into()).unwrap();
        let mut sent = 0;
        while pair.send(&[(key(sent), file.as_fd())]).unwrap() {
            sent += 1;
        }
        assert!(sent > 200, "{sent}");
        pair.drop_first().unwrap();
        assert!(pair.send(&[(key(sent), file.as_fd())]).unwrap());
    }
}

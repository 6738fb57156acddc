//! A socket pair in whose queue descriptors are in flight.
//!
//! A message holds as many keys as descriptors. The kernel keeps what is in flight for as long as
//! the receiving end exists; reading with `MSG_PEEK` gives copies and takes nothing out. Nobody but
//! us ever has an end, but for the service manager, who reads nothing.

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

use super::Error;
use super::key::Key;

/// How many descriptors one message carries at most: the kernel's `SCM_MAX_FD`.
pub(super) const MESSAGE: usize = 253;
/// How much a queue may hold, in bytes of the kernel's memory, which takes twice what it is told
/// (socket(7)): what it allows everywhere, and some 500 messages.
const QUEUE: usize = 212_992;
/// The space for the control part of a message.
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MESSAGE));

/// Two connected sockets, and what lies between them.
#[derive(Debug)]
pub(super) struct Pair {
    /// Among those of its kind.
    pub(super) number: u64,
    /// What its ends are called in the store, but for their last letter.
    pub(super) name: String,
    into: OwnedFd,
    out: OwnedFd,
    /// What is in the queue, message by message, in order.
    pub(super) queue: VecDeque<Vec<Key>>,
    /// Whether the service manager has both ends too.
    pub(super) stored: bool,
}

impl Pair {
    /// A new, empty pair.
    pub(super) fn new(number: u64, name: String) -> Result<Self, Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (into, out) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(Error::system("create a socket pair"))?;
        sockopt::set_socket_send_buffer_size(&into, QUEUE)
            .map_err(Error::system("set the buffer size of a socket pair"))?;
        Ok(Self { number, name, into, out, queue: VecDeque::new(), stored: false })
    }

    /// A pair of an earlier service, and what it holds. Takes nothing out.
    pub(super) fn read(
        number: u64,
        name: String,
        into: OwnedFd,
        out: OwnedFd,
    ) -> Result<(Self, Vec<(Key, OwnedFd)>), Error> {
        let mut found = Vec::new();
        let mut pair = Self { number, name, into, out, queue: VecDeque::new(), stored: true };
        let mut at = 0;
        while let Some((bytes, fds)) = pair.peek(at, MESSAGE)? {
            at += bytes.len();
            let keys = read_keys(&bytes)?;
            if keys.len() != fds.len() {
                return Err(strange());
            }
            found.extend(keys.iter().copied().zip(fds));
            pair.queue.push_back(keys);
        }
        Ok((pair, found))
    }

    /// The same without the descriptors: none is opened here, so none has to be closed.
    pub(super) fn read_keys(
        number: u64,
        name: String,
        into: OwnedFd,
        out: OwnedFd,
    ) -> Result<Self, Error> {
        let mut pair = Self { number, name, into, out, queue: VecDeque::new(), stored: true };
        let mut at = 0;
        while let Some((bytes, _)) = pair.peek(at, 0)? {
            at += bytes.len();
            pair.queue.push_back(read_keys(&bytes)?);
        }
        Ok(pair)
    }

    /// A descriptor of the only one in a message, which stays there.
    pub(super) fn look(&self, message: usize) -> Result<OwnedFd, Error> {
        let before = self.queue.iter().take(message).map(|keys| keys.len() * Key::LENGTH);
        let seen = self.peek(before.sum(), MESSAGE)?;
        seen.and_then(|(_, mut fds)| fds.pop()).ok_or_else(strange)
    }

    /// Sends descriptors into the queue. `false`: it has no room.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] where more descriptors are in flight than this process may have open.
    pub(super) fn send(&mut self, what: &[(Key, BorrowedFd<'_>)]) -> Result<bool, Error> {
        let (keys, fds): (Vec<Key>, Vec<BorrowedFd<'_>>) = what.iter().copied().unzip();
        let mut bytes = Vec::with_capacity(keys.len() * Key::LENGTH);
        for key in &keys {
            key.write(&mut bytes);
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

    /// Drops the first message. The kernel closes its descriptors without our ever having them;
    /// where one is the last of its description, that may have to wait for its file system.
    pub(super) fn drop_first(&mut self) -> Result<(), Error> {
        if self.queue.pop_front().is_some() {
            let mut nothing = [0u8; 0];
            let cut = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
            recv(&self.out, &mut nothing, cut)
                .map_err(Error::system("discard a stored descriptor"))?;
        }
        Ok(())
    }

    /// Both ends: the one that is written to, and the one with the queue.
    pub(super) fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.into.as_fd(), self.out.as_fd()]
    }
}

/// From which byte of the queue on the next look begins (`SO_PEEK_OFF`, socket(7)).
#[allow(unsafe_code)]
fn peek_from(socket: &OwnedFd, at: usize) -> std::io::Result<()> {
    let at = libc::c_int::try_from(at).map_err(std::io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&at)).map_err(std::io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel reads `length` bytes of `at`, which lives on.
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

/// What is in a message.
type Seen = (Vec<u8>, Vec<OwnedFd>);

impl Pair {
    /// Looks at the message that begins at a byte of the queue; `None` at its end. Where no
    /// descriptors are wanted, none is opened.
    fn peek(&self, at: usize, fds: usize) -> Result<Option<Seen>, Error> {
        let doing = "read back stored descriptors";
        peek_from(&self.out, at).map_err(Error::system(doing))?;
        let mut bytes = vec![0; MESSAGE * Key::LENGTH];
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
        // Cut short: so many descriptors did not fit below our limit on open files.
        if fds > 0 && seen.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Error::system(doing)(Errno::MFILE));
        }
        bytes.truncate(seen.bytes);
        Ok(Some((bytes, opened)))
    }
}

fn read_keys(bytes: &[u8]) -> Result<Vec<Key>, Error> {
    bytes.chunks(Key::LENGTH).map(|key| Key::read(key).ok_or_else(strange)).collect()
}

fn strange() -> Error {
    let cause = std::io::Error::other("unexpected message");
    Error::System { doing: "read back stored descriptors", cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep::Part;
    use crate::lock::OwnerId;
    use std::fs::File;

    fn key(number: u64) -> Key {
        let owner = OwnerId::new(0, uuid::Uuid::from_u128(1));
        Key { owner, part: Part::Byte(number, 0) }
    }

    fn inode(fd: impl AsFd) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn what_is_in_flight_can_be_read_again_and_again() {
        let files: Vec<File> = (0..5).map(|_| tempfile::tempfile().unwrap()).collect();
        let mut pair = Pair::new(1, "p1".into()).unwrap();
        assert!(pair.send(&[(key(0), files[0].as_fd())]).unwrap());
        let two = [(key(1), files[1].as_fd()), (key(2), files[2].as_fd())];
        assert!(pair.send(&two).unwrap());
        assert!(pair.send(&[(key(3), files[3].as_fd())]).unwrap());
        for _ in 0..2 {
            let ends = (pair.into.try_clone().unwrap(), pair.out.try_clone().unwrap());
            let (again, found) = Pair::read(1, "p1".into(), ends.0, ends.1).unwrap();
            assert_eq!(again.queue, pair.queue);
            let keys: Vec<Key> = found.iter().map(|(key, _)| *key).collect();
            assert_eq!(keys, (0..4).map(key).collect::<Vec<_>>());
            for ((_, fd), file) in found.iter().zip(&files) {
                assert_eq!(inode(fd), inode(file));
            }
        }
        pair.drop_first().unwrap();
        pair.drop_first().unwrap();
        let ends = (pair.into.try_clone().unwrap(), pair.out.try_clone().unwrap());
        let (_, found) = Pair::read(1, "p1".into(), ends.0, ends.1).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, inode(&found[0].1)), (key(3), inode(&files[3])));
    }

    #[test]
    fn a_queue_has_an_end() {
        let file = tempfile::tempfile().unwrap();
        let mut pair = Pair::new(1, "p1".into()).unwrap();
        let mut sent = 0;
        while pair.send(&[(key(sent), file.as_fd())]).unwrap() {
            sent += 1;
        }
        assert!(sent > 200, "{sent}");
        pair.drop_first().unwrap();
        assert!(pair.send(&[(key(sent), file.as_fd())]).unwrap());
    }
}

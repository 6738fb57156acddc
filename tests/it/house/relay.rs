//! A relay between the service and its bus, which loses messages and stops reading.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::DEADLINE;
use super::user::{ROOT, in_thread};

/// Room for the descriptors of one message.
const CONTROL: usize = rustix::cmsg_space!(ScmRights(16));
/// A method call that asks who a connection belongs to.
const CREDENTIALS: &[u8] = b"GetConnectionCredentials\0";
/// The header field with the serial number that a reply is for.
const REPLY_SERIAL: &[u8] = &[5, 1, b'u', 0];

/// Passes on what the service and its bus say to each other.
pub(crate) struct Relay {
    path: PathBuf,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Replies to `GetConnectionCredentials` that are still to be lost.
    credentials: AtomicUsize,
    /// Signals of connections that have left that are still to be lost.
    leaving: AtomicUsize,
    /// Connections that are not read, by their number from 0: those below this.
    unread: AtomicUsize,
    /// How many replies and signals were lost.
    lost: Mutex<usize>,
    one_more: Condvar,
}

impl Relay {
    /// Listens in `dir`, and passes on to the bus at `bus`.
    pub(crate) fn start(dir: &Path, bus: &Path) -> Relay {
        let path = dir.join("relay");
        let listener = UnixListener::bind(&path).expect("a socket in our directory");
        let (state, bus) = (Arc::<State>::default(), bus.to_owned());
        let relay = Relay { path, state: state.clone() };
        thread::spawn(move || {
            for (number, service) in listener.incoming().enumerate() {
                let Ok(service) = service else { return };
                let Ok(bus) = UnixStream::connect(&bus) else { continue };
                let (from, to) = (service.try_clone().unwrap(), bus.try_clone().unwrap());
                let asked = Arc::<Mutex<Vec<u32>>>::default();
                let (state, noted) = (state.clone(), asked.clone());
                let other = state.clone();
                thread::spawn(move || drop(from_service(&service, &bus, &state, &noted, number)));
                thread::spawn(move || drop(from_bus(&to, &from, &other, &asked)));
            }
        });
        relay
    }

    /// Where the service is to connect.
    pub(crate) fn address(&self) -> String {
        format!("unix:path={}", self.path.display())
    }

    /// Loses the next `count` replies about who a connection belongs to.
    pub(crate) fn lose_credentials(&self, count: usize) {
        self.state.credentials.store(count, Ordering::SeqCst);
    }

    /// Loses the next `count` signals of connections that have left.
    pub(crate) fn lose_leaving(&self, count: usize) {
        self.state.leaving.store(count, Ordering::SeqCst);
    }

    /// Waits until so many messages were lost in all.
    pub(crate) async fn has_lost(&self, count: usize) {
        let state = self.state.clone();
        let lost = move || {
            let lost = state.lost.lock().unwrap();
            let waited = state.one_more.wait_timeout_while(lost, DEADLINE, |lost| *lost < count);
            !waited.unwrap().1.timed_out()
        };
        assert!(in_thread(ROOT, lost).await, "less than {count} messages to lose");
    }

    /// Reads nothing more from the first `count` connections of the service.
    pub(crate) fn leave_unread(&self, count: usize) {
        self.state.unread.store(count, Ordering::SeqCst);
    }
}

impl State {
    /// Whether one more is to be lost.
    fn loses(&self, left: &AtomicUsize) -> bool {
        let less = |left: usize| left.checked_sub(1);
        let loses = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        *self.lost.lock().unwrap() += usize::from(loses);
        self.one_more.notify_all();
        loses
    }
}

fn from_service(
    service: &UnixStream,
    bus: &UnixStream,
    state: &State,
    asked: &Mutex<Vec<u32>>,
    number: usize,
) -> io::Result<()> {
    let mut buffer = Buffer::default();
    let ended = loop {
        let received = buffer.receive(service);
        // Until the service leaves, which can be seen without reading.
        while number < state.unread.load(Ordering::SeqCst) {
            let mut event = [PollFd::new(service.as_fd(), PollFlags::empty())];
            if poll(&mut event, PollTimeout::from(10u8)).is_ok_and(|count| count > 0) {
                return bus.shutdown(Shutdown::Both);
            }
        }
        if let Err(error) = received {
            break Err(error);
        }
        let passed = buffer.pass_on(bus, |message| {
            if contains(message, CREDENTIALS) {
                asked.lock().unwrap().push(number_at(message, 8));
            }
            true
        });
        if passed.is_err() {
            break passed;
        }
    };
    bus.shutdown(Shutdown::Both)?;
    ended
}

fn from_bus(
    bus: &UnixStream,
    service: &UnixStream,
    state: &State,
    asked: &Mutex<Vec<u32>>,
) -> io::Result<()> {
    let mut buffer = Buffer::default();
    let ended = loop {
        if let Err(error) = buffer.receive(bus) {
            break Err(error);
        }
        let passed = buffer.pass_on(service, |message| {
            let place = message.windows(4).position(|bytes| bytes == REPLY_SERIAL);
            let reply_to = place.map(|place| number_at(message, place + 4));
            let lost = match (message[1], reply_to) {
                (2 | 3, Some(serial)) if asked.lock().unwrap().contains(&serial) => {
                    state.loses(&state.credentials)
                }
                (4, _) if contains(message, b"NameOwnerChanged\0") => state.loses(&state.leaving),
                _ => false,
            };
            !lost
        });
        if passed.is_err() {
            break passed;
        }
    };
    service.shutdown(Shutdown::Both)?;
    ended
}

fn contains(message: &[u8], words: &[u8]) -> bool {
    message.windows(words.len()).any(|bytes| bytes == words)
}

/// A number of a message; everything here is little-endian.
fn number_at(message: &[u8], place: usize) -> u32 {
    u32::from_le_bytes(message[place..place + 4].try_into().unwrap())
}

/// What came and was not passed on.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Buffer {
    fn receive(&mut self, from: &UnixStream) -> io::Result<()> {
        let (mut bytes, mut space) = ([0; 1 << 14], [MaybeUninit::uninit(); CONTROL]);
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let count = recvmsg(from, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&bytes[..count]);
        Ok(())
    }

    /// Passes on what is complete: lines of the handshake, and messages that are wanted.
    fn pass_on(
        &mut self,
        to: &UnixStream,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<()> {
        let mut passed = Vec::new();
        loop {
            let length = match self.bytes.first() {
                None => break,
                Some(b'l') if self.bytes.len() < 16 => break,
                Some(b'l') => {
                    let fields = number_at(&self.bytes, 12) as usize;
                    16 + fields.next_multiple_of(8) + number_at(&self.bytes, 4) as usize
                }
                Some(_) => match self.bytes.iter().position(|byte| *byte == b'\n') {
                    Some(end) => end + 1,
                    None => break,
                },
            };
            if self.bytes.len() < length {
                break;
            }
            let message: Vec<u8> = self.bytes.drain(..length).collect();
            if message[0] != b'l' || wanted(&message) {
                passed.extend(message);
            } else {
                self.fds.clear();
            }
        }
        let mut rest = &passed[..];
        while !rest.is_empty() {
            let mut space = [MaybeUninit::uninit(); CONTROL];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds: Vec<_> = self.fds.iter().map(|fd| fd.as_fd()).collect();
            if !fds.is_empty() {
                assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
            }
            let from = &[IoSlice::new(rest)];
            let sent = sendmsg(to, from, &mut ancillary, SendFlags::NOSIGNAL)?;
            rest = &rest[sent..];
            self.fds.clear();
        }
        Ok(())
    }
}

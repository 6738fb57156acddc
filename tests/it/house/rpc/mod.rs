//! A client of virtlockd's protocol, for any server that speaks it.
//!
//! It shares nothing with the service: a mistake made on both sides would be seen by nobody. What
//! comes back is looked at strictly, and what is sent can be as wrong as a test wants. It blocks,
//! and needs nothing but the standard library, so that it can measure too.

#![allow(dead_code, reason = "not everybody who speaks it has all of it to say")]

mod wire;

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

pub(crate) use wire::{
    Arguments, Frame, KEEPALIVE, LONGEST, PROGRAM, Refusal, SHORTEST, kind, procedure,
};

use super::DEADLINE;

/// The disk may be used by more than one.
pub(crate) const SHARED: u32 = 1;
/// A lock file that is not there is made.
pub(crate) const AUTOCREATE: u32 = 2;

/// Who says he is the owner.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) uuid: [u8; 16],
    pub(crate) name: Vec<u8>,
    pub(crate) id: u32,
    pub(crate) pid: u32,
}

impl Owner {
    /// A machine whose UUID is made of its number.
    pub(crate) fn new(name: &str, number: u8, pid: u32) -> Owner {
        Owner { uuid: [number; 16], name: name.into(), id: number.into(), pid }
    }
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Answer {
    Granted,
    Refused(Refusal),
    /// The connection is closed.
    Closed,
}

impl Answer {
    /// It was granted.
    #[track_caller]
    pub(crate) fn granted(self) {
        assert_eq!(self, Answer::Granted);
    }

    /// It was refused, and this is why.
    #[track_caller]
    pub(crate) fn refused(self) -> Refusal {
        match self {
            Answer::Refused(refusal) => refusal,
            other => panic!("not refused, but {other:?}"),
        }
    }

    /// What the reply to a call says, if it is one.
    #[track_caller]
    pub(crate) fn to(call: &Frame, reply: Option<Frame>) -> Answer {
        let Some(mut reply) = reply else { return Answer::Closed };
        let payload = std::mem::take(&mut reply.payload);
        let head = Frame { kind: kind::REPLY, status: reply.status, payload: Vec::new(), ..*call };
        assert_eq!(reply, head, "this is no reply to {call:?}");
        match reply.status {
            0 => {
                assert!(payload.is_empty(), "procedure {} returns {payload:?}", call.procedure);
                Answer::Granted
            }
            1 => {
                let refusal = Refusal::parse(&payload);
                assert_eq!(refusal.level, 2, "an error, and neither none nor a warning");
                Answer::Refused(refusal)
            }
            status => panic!("status {status}"),
        }
    }
}

/// The arguments of each procedure.
pub(crate) mod arguments {
    use super::{Arguments, Owner};

    pub(crate) fn register(owner: &Owner, flags: u32) -> Arguments {
        let arguments = Arguments::default().raw(&owner.uuid).text(&owner.name);
        arguments.number(owner.id).number(owner.pid).number(flags)
    }

    pub(crate) fn restrict(flags: u32) -> Arguments {
        Arguments::default().number(flags)
    }

    /// Of all procedures, that which makes a lockspace if need be takes no flags.
    pub(crate) fn path(path: impl AsRef<[u8]>) -> Arguments {
        Arguments::default().text(path)
    }

    pub(crate) fn lockspace(path: impl AsRef<[u8]>, flags: u32) -> Arguments {
        Arguments::default().text(path).number(flags)
    }

    pub(crate) fn resource(
        lockspace: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
        flags: u32,
    ) -> Arguments {
        Arguments::default().text(lockspace).text(name).number(flags)
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Rpc {
    stream: UnixStream,
    serial: u32,
    /// What has come and was not looked at yet.
    inbox: Vec<u8>,
}

impl Rpc {
    pub(crate) fn connect(path: &Path) -> io::Result<Rpc> {
        Ok(Rpc::on(UnixStream::connect(path)?))
    }

    /// On a connection that is there.
    pub(crate) fn on(stream: UnixStream) -> Rpc {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout can be set");
        Rpc { stream, serial: 0, inbox: Vec::new() }
    }

    pub(crate) fn register(&mut self, owner: &Owner) -> Answer {
        self.call(procedure::REGISTER, arguments::register(owner, 0))
    }

    pub(crate) fn restrict(&mut self) -> Answer {
        self.call(procedure::RESTRICT, arguments::restrict(0))
    }

    pub(crate) fn new_lockspace(&mut self, path: impl AsRef<[u8]>) -> Answer {
        self.call(procedure::NEW, arguments::lockspace(path, 0))
    }

    pub(crate) fn create_lockspace(&mut self, path: impl AsRef<[u8]>) -> Answer {
        self.call(procedure::CREATE_LOCKSPACE, arguments::path(path))
    }

    pub(crate) fn create_resource(
        &mut self,
        lockspace: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
    ) -> Answer {
        self.call(procedure::CREATE_RESOURCE, arguments::resource(lockspace, name, 0))
    }

    pub(crate) fn delete_resource(
        &mut self,
        lockspace: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
    ) -> Answer {
        self.call(procedure::DELETE_RESOURCE, arguments::resource(lockspace, name, 0))
    }

    pub(crate) fn acquire(
        &mut self,
        lockspace: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
        flags: u32,
    ) -> Answer {
        self.call(procedure::ACQUIRE, arguments::resource(lockspace, name, flags))
    }

    pub(crate) fn release(
        &mut self,
        lockspace: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
        flags: u32,
    ) -> Answer {
        self.call(procedure::RELEASE, arguments::resource(lockspace, name, flags))
    }

    /// Asks whether the other side is there.
    pub(crate) fn ping(&mut self) -> Answer {
        self.send(&Frame::ping().bytes());
        let Some(pong) = self.receive() else { return Answer::Closed };
        assert_eq!(pong, Frame::pong());
        Answer::Granted
    }

    /// Calls a procedure and waits for what becomes of it.
    #[track_caller]
    pub(crate) fn call(&mut self, procedure: i32, arguments: Arguments) -> Answer {
        let call = self.next(procedure, arguments);
        self.exchange(&call)
    }

    /// A call with the next serial.
    pub(crate) fn next(&mut self, procedure: i32, arguments: Arguments) -> Frame {
        self.serial += 1;
        Frame::call(procedure, self.serial, arguments)
    }

    /// Sends a call, however wrong, and waits for what becomes of it.
    #[track_caller]
    pub(crate) fn exchange(&mut self, call: &Frame) -> Answer {
        self.send(&call.bytes());
        Answer::to(call, self.receive())
    }

    /// Sends bytes. If nobody takes them any more, that is seen when an answer is waited for.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nobody reads in {DEADLINE:?}")
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// The next message, whole; none if the connection is closed instead.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.whole() {
                return Some(frame);
            }
            let mut part = [0; 4096];
            match self.stream.read(&mut part) {
                Ok(0) => break,
                Ok(count) => self.inbox.extend(&part[..count]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // So it looks if the other side has not read all that was sent.
                Err(e) if e.kind() == ErrorKind::ConnectionReset => break,
                Err(e) => panic!("no answer in {DEADLINE:?}: {e}"),
            }
        }
        assert!(self.inbox.is_empty(), "the end comes within a message: {:?}", self.inbox);
        None
    }

    /// Takes the first message that has come, if it is there to its end.
    fn whole(&mut self) -> Option<Frame> {
        let length = u32::from_be_bytes(*self.inbox.first_chunk()?);
        assert!((SHORTEST..=LONGEST).contains(&length), "a message of {length} bytes");
        let length = length as usize;
        let frame = Frame::parse(self.inbox.get(4..length)?);
        self.inbox.drain(..length);
        Some(frame)
    }

    /// Whether nothing has come by now, not even the end.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket can be set so");
        let mut part = [0; 4096];
        let read = self.stream.read(&mut part);
        self.stream.set_nonblocking(false).expect("a socket can be set so");
        match read {
            Ok(count) => {
                self.inbox.extend(&part[..count]);
                false
            }
            Err(e) => e.kind() == ErrorKind::WouldBlock && self.inbox.is_empty(),
        }
    }

    /// The connection itself, for whoever shall inherit it.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

//! A client that sends calls to the service as fast as the bus takes them.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use nix::unistd::geteuid;
use zbus::Connection;
use zbus::message::{Builder, Flags, Message};

use super::NAME;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    Introspect,
    ManagedObjects,
    Properties,
    Ping,
    UnknownMethod,
    UnknownObject,
    WrongBody,
    OwnMethod,
    LargeMessage,
}

impl Flood {
    pub(crate) const ALL: [Flood; 9] = [
        Flood::Introspect,
        Flood::ManagedObjects,
        Flood::Properties,
        Flood::Ping,
        Flood::UnknownMethod,
        Flood::UnknownObject,
        Flood::WrongBody,
        Flood::OwnMethod,
        Flood::LargeMessage,
    ];

    fn member(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Flood::Introspect => {
                ("/org/vmlockd1", "org.freedesktop.DBus.Introspectable", "Introspect")
            }
            Flood::ManagedObjects => {
                ("/org/vmlockd1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
            }
            Flood::Properties => ("/org/vmlockd1", "org.freedesktop.DBus.Properties", "GetAll"),
            Flood::Ping | Flood::LargeMessage => ("/", "org.freedesktop.DBus.Peer", "Ping"),
            Flood::UnknownMethod => ("/org/vmlockd1", "org.vmlockd1.Manager", "NoSuchMethod"),
            Flood::UnknownObject => ("/org/vmlockd1/none", "org.vmlockd1.Owner", "Close"),
            Flood::WrongBody => ("/org/vmlockd1", "org.vmlockd1.Manager", "OpenOwner"),
            Flood::OwnMethod => ("/org/vmlockd1", "org.vmlockd1.Manager", "GetOwner"),
        }
    }

    /// One call, sent to this name.
    fn call(self, to: &'static str, flags: Option<Flags>) -> Message {
        let (path, interface, member) = self.member();
        let call = Message::method_call(path, member).destination(to).interface(interface);
        let call = flags.into_iter().fold(call, Builder::with_flags);
        let message = match self {
            Flood::Properties => call.build(&"org.vmlockd1.Manager"),
            Flood::WrongBody => call.build(&7u32),
            Flood::OwnMethod => call.build(&"c7a5fdbd-cdaf-9455-926a-d65c16db1809"),
            Flood::LargeMessage => call.build(&"x".repeat(512 << 10)),
            _ => call.build(&()),
        };
        message.expect("a message")
    }

    /// Calls once, and waits for the reply.
    pub(crate) async fn call_on(self, bus: &Connection) -> zbus::Result<Message> {
        let (path, interface, member) = self.member();
        let (to, interface) = (Some(NAME), Some(interface));
        match self {
            Flood::Properties => {
                bus.call_method(to, path, interface, member, &"org.vmlockd1.Manager").await
            }
            Flood::WrongBody => bus.call_method(to, path, interface, member, &7u32).await,
            Flood::OwnMethod => {
                let uuid = "c7a5fdbd-cdaf-9455-926a-d65c16db1809";
                bus.call_method(to, path, interface, member, &uuid).await
            }
            _ => bus.call_method(to, path, interface, member, &()).await,
        }
    }
}

/// A connection to the bus that does not wait for replies, and counts them.
pub(crate) struct Flooder {
    stream: UnixStream,
    /// The name that is called.
    to: &'static str,
    received: Arc<AtomicUsize>,
    serial: u32,
}

impl Flooder {
    /// Connects to the bus that listens at `socket`, as the user of the calling thread.
    pub(crate) fn connect(socket: &Path) -> Flooder {
        let mut stream = UnixStream::connect(socket).expect("a bus");
        // Each digit in hexadecimal, as the mechanism has it: 0 is 30.
        let uid: String = geteuid().to_string().chars().flat_map(|digit| ['3', digit]).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).expect("a bus");
        let mut answer = [0; 256];
        let count = stream.read(&mut answer).expect("an answer");
        assert!(answer[..count].starts_with(b"OK"), "{:?}", &answer[..count]);
        let bus = "org.freedesktop.DBus";
        let hello = Message::method_call("/org/freedesktop/DBus", "Hello").destination(bus);
        let hello = hello.interface(bus).build(&()).expect("a message");
        stream.write_all(b"BEGIN\r\n").expect("a bus");
        stream.write_all(hello.data().bytes()).expect("a bus");
        let received = Arc::new(AtomicUsize::new(0));
        let (mut replies, counted) = (stream.try_clone().expect("a socket"), received.clone());
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count) = replies.read(&mut buffer)
                && count > 0
            {
                counted.fetch_add(count, Ordering::Relaxed);
            }
        });
        Flooder { stream, to: NAME, received, serial: 1 }
    }

    /// Calls the bus itself instead of the service, which none of it reaches then.
    #[allow(dead_code, reason = "the benchmark's control")]
    pub(crate) fn at_the_bus(self) -> Flooder {
        Flooder { to: "org.freedesktop.DBus", ..self }
    }

    /// Sends so many calls. Returns `false` if the bus ended the connection instead.
    pub(crate) fn send(&mut self, flood: Flood, wants_replies: bool, count: usize) -> bool {
        let flags = (!wants_replies).then_some(Flags::NO_REPLY_EXPECTED);
        let call = flood.call(self.to, flags);
        let call = call.data().bytes();
        let batch = (1 << 14) / call.len() + 1;
        for start in (0..count).step_by(batch) {
            let mut bytes = Vec::with_capacity(batch * call.len());
            for _ in start..count.min(start + batch) {
                self.serial += 1;
                let from = bytes.len();
                bytes.extend_from_slice(call);
                // The serial number is in the second half of the header's fixed part.
                bytes[from + 8..from + 12].copy_from_slice(&self.serial.to_ne_bytes());
            }
            if self.stream.write_all(&bytes).is_err() {
                return false;
            }
        }
        true
    }

    /// Sends a call with a header field that the specification does not define, of a container
    /// type.
    pub(crate) fn send_undefined_field(&mut self) {
        let call = Flood::Ping.call(self.to, None);
        let mut bytes = call.data().bytes().to_vec();
        // Without a body, the message ends with the header and its padding. The field: code 200, an
        // array of strings, with one that is empty.
        bytes.extend_from_slice(&[200, 2, b'a', b's', 0, 0, 0, 0]);
        bytes.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 0]);
        let length = u32::try_from(bytes.len() - 16).expect("a short header");
        bytes[12..16].copy_from_slice(&length.to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        self.stream.write_all(&bytes).expect("a bus");
    }

    /// How many bytes have been received.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }
}

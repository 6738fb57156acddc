//! A client that calls the service and reads no reply.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::unistd::geteuid;
use serde::Serialize;
use zbus::DynamicType;
use zbus::message::Message;

use super::NAME;

/// A connection to the bus of which nothing is read.
pub(crate) struct Deaf {
    stream: UnixStream,
    serial: u32,
}

impl Deaf {
    /// Connects to the bus that listens at `socket`, as the user of the calling thread.
    pub(crate) fn connect(socket: &Path) -> Deaf {
        let mut stream = UnixStream::connect(socket).expect("a bus");
        // Each digit in hexadecimal, as the mechanism has it: 0 is 30.
        let uid: String = geteuid().to_string().chars().flat_map(|digit| ['3', digit]).collect();
        for (line, answer) in [
            (format!("\0AUTH EXTERNAL {uid}\r\n"), "OK"),
            ("NEGOTIATE_UNIX_FD\r\n".to_owned(), "AGREE"),
        ] {
            stream.write_all(line.as_bytes()).expect("a bus");
            let mut answered = [0; 256];
            let count = stream.read(&mut answered).expect("an answer");
            assert!(answered[..count].starts_with(answer.as_bytes()), "{:?}", &answered[..count]);
        }
        stream.write_all(b"BEGIN\r\n").expect("a bus");
        let mut deaf = Deaf { stream, serial: 0 };
        let bus = "org.freedesktop.DBus";
        deaf.send_to(bus, "/org/freedesktop/DBus", (bus, "Hello"), &());
        deaf
    }

    /// Calls a method of the service.
    pub(crate) fn call<B: Serialize + DynamicType>(
        &mut self,
        path: &str,
        method: (&str, &str),
        body: &B,
    ) {
        self.send_to(NAME, path, method, body);
    }

    fn send_to<B: Serialize + DynamicType>(
        &mut self,
        to: &str,
        path: &str,
        (interface, member): (&str, &str),
        body: &B,
    ) {
        let call = Message::method_call(path, member).destination(to).interface(interface);
        let call = call.build(body).expect("a message");
        let mut bytes = call.data().bytes().to_vec();
        self.serial += 1;
        bytes[8..12].copy_from_slice(&self.serial.to_ne_bytes());
        self.stream.write_all(&bytes).expect("a bus");
    }
}

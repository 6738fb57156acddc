//! Messages of virtlockd's protocol as bytes, and back.
//!
//! All is big-endian and in units of four bytes (XDR). A message is its own length, a header of six
//! numbers, and a payload.

/// The lock service's program.
pub(crate) const PROGRAM: u32 = 0x0EA7_BEEF;
/// The keepalive program.
pub(crate) const KEEPALIVE: u32 = 0x6B65_6570;
/// The largest length that a message may say it has.
pub(crate) const LONGEST: u32 = 33_554_436;
/// A length with nothing after the header.
pub(crate) const SHORTEST: u32 = 28;

/// What a message is, by its header.
pub(crate) mod kind {
    pub(crate) const CALL: i32 = 0;
    pub(crate) const REPLY: i32 = 1;
    pub(crate) const MESSAGE: i32 = 2;
    pub(crate) const STREAM: i32 = 3;
    pub(crate) const CALL_WITH_FDS: i32 = 4;
}

/// The procedures of the lock service.
pub(crate) mod procedure {
    pub(crate) const REGISTER: i32 = 1;
    pub(crate) const RESTRICT: i32 = 2;
    pub(crate) const NEW: i32 = 3;
    pub(crate) const CREATE_RESOURCE: i32 = 4;
    pub(crate) const DELETE_RESOURCE: i32 = 5;
    pub(crate) const ACQUIRE: i32 = 6;
    pub(crate) const RELEASE: i32 = 7;
    pub(crate) const CREATE_LOCKSPACE: i32 = 8;
}

/// A message; each field can be made wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) procedure: i32,
    pub(crate) kind: i32,
    pub(crate) serial: u32,
    pub(crate) status: i32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// A call of the lock service.
    pub(crate) fn call(procedure: i32, serial: u32, arguments: Arguments) -> Frame {
        let payload = arguments.0;
        let kind = kind::CALL;
        Frame { program: PROGRAM, version: 1, procedure, kind, serial, status: 0, payload }
    }

    /// "Are you there?"
    pub(crate) fn ping() -> Frame {
        let kind = kind::MESSAGE;
        let payload = Vec::new();
        Frame { program: KEEPALIVE, version: 1, procedure: 1, kind, serial: 0, status: 0, payload }
    }

    /// The answer to that.
    pub(crate) fn pong() -> Frame {
        Frame { procedure: 2, ..Frame::ping() }
    }

    /// As it is sent.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = SHORTEST as usize + self.payload.len();
        self.with_length(u32::try_from(length).expect("a message of a test is small"))
    }

    /// The same, with a length that may be a lie.
    pub(crate) fn with_length(&self, length: u32) -> Vec<u8> {
        let mut bytes = length.to_be_bytes().to_vec();
        for number in [self.program, self.version] {
            bytes.extend(number.to_be_bytes());
        }
        for number in [self.procedure, self.kind] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(self.serial.to_be_bytes());
        bytes.extend(self.status.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// What follows the length of a message.
    pub(crate) fn parse(bytes: &[u8]) -> Frame {
        let mut rest = Rest(bytes);
        Frame {
            program: rest.number(),
            version: rest.number(),
            procedure: rest.signed(),
            kind: rest.signed(),
            serial: rest.number(),
            status: rest.signed(),
            payload: rest.0.to_vec(),
        }
    }
}

/// Arguments of a call, put together by hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments(pub(crate) Vec<u8>);

impl Arguments {
    pub(crate) fn number(mut self, number: u32) -> Arguments {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// A string. Nobody checks what is in it.
    pub(crate) fn text(self, text: impl AsRef<[u8]>) -> Arguments {
        let text = text.as_ref();
        let length = u32::try_from(text.len()).expect("a string of a test is small");
        let mut longer = self.number(length).raw(text);
        let padding = text.len().next_multiple_of(4) - text.len();
        longer.0.extend([0; 3].iter().take(padding));
        longer
    }

    /// Bytes as they are.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Arguments {
        self.0.extend(bytes);
        self
    }
}

/// Why a call was refused: libvirt's error, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: i32,
    pub(crate) domain: i32,
    pub(crate) message: String,
    pub(crate) level: i32,
    pub(crate) strings: [Option<String>; 3],
    pub(crate) numbers: [i32; 2],
}

impl Refusal {
    /// The payload of an error reply. What it says about a domain or network of libvirt's has no
    /// place in a lock service, and nothing may follow.
    pub(crate) fn parse(payload: &[u8]) -> Refusal {
        let mut rest = Rest(payload);
        let (code, domain) = (rest.signed(), rest.signed());
        let message = rest.perhaps_text().expect("a refusal says why");
        let level = rest.signed();
        assert!(!rest.is_there(), "no refusal here is about a domain");
        let strings = [(); 3].map(|()| rest.perhaps_text());
        let numbers = [(); 2].map(|()| rest.signed());
        assert!(!rest.is_there(), "no refusal here is about a network");
        assert!(rest.0.is_empty(), "{} bytes after the error", rest.0.len());
        Refusal { code, domain, message, level, strings, numbers }
    }
}

/// What is left to be read of a payload.
struct Rest<'b>(&'b [u8]);

impl Rest<'_> {
    fn four(&mut self) -> [u8; 4] {
        let (first, rest) = self.0.split_first_chunk().expect("four more bytes");
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u32 {
        u32::from_be_bytes(self.four())
    }

    fn signed(&mut self) -> i32 {
        i32::from_be_bytes(self.four())
    }

    fn is_there(&mut self) -> bool {
        match self.number() {
            0 => false,
            1 => true,
            number => panic!("{number} is neither no nor yes"),
        }
    }

    fn perhaps_text(&mut self) -> Option<String> {
        self.is_there().then(|| {
            let length = self.number() as usize;
            let (text, rest) = self.0.split_at(length);
            let (padding, rest) = rest.split_at(length.next_multiple_of(4) - length);
            assert!(padding.iter().all(|byte| *byte == 0), "padding {padding:?}");
            self.0 = rest;
            String::from_utf8(text.to_owned()).expect("a refusal is in UTF-8")
        })
    }
}

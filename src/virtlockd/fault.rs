//! How a refusal is told: libvirt's remote error, with the codes and texts that its users know.
//!
//! libvirt shows the message, and its log the rest: the format of the message, what was put into
//! it, and the number of the system's error. Those are written as virtlockd writes them. A text
//! that holds foreign names is escaped, and cut in its middle where it is too long, so that what
//! is told stays readable whatever was asked.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use super::call::{Call, Undecodable};
use super::xdr::Writer;
use crate::lock::printable::{shown, shown_path};

/// The longest text, in bytes.
pub const LONGEST: usize = 4096;
/// How much of a text that is cut is kept at its end, where the cause stands.
const END: usize = 512;

/// What kind of refusal it is: libvirt's `virErrorNumber`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// What should not have been asked.
    Internal = 1,
    /// An argument that is not understood.
    InvalidArgument = 8,
    /// The connection is restricted.
    OperationDenied = 29,
    /// The system refused or failed.
    System = 38,
    /// The protocol was not kept.
    Rpc = 39,
    /// Not at this time.
    OperationInvalid = 55,
    /// Somebody else has it.
    ResourceBusy = 87,
}

impl Code {
    /// What libvirt puts before the text of such an error.
    fn prefix(self) -> &'static str {
        match self {
            Self::Internal => "internal error: ",
            Self::InvalidArgument => "invalid argument: ",
            Self::OperationDenied => "operation forbidden: ",
            Self::System | Self::Rpc => "",
            Self::OperationInvalid => "Requested operation is not valid: ",
            Self::ResourceBusy => "resource busy: ",
        }
    }
}

/// Where it comes from: libvirt's `virErrorDomain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// The service as a server of calls.
    Rpc = 7,
    /// The locks.
    Lockspace = 51,
}

/// libvirt's `VIR_ERR_ERROR`, as opposed to a warning.
const LEVEL: i32 = 2;

/// What is told beside the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    None,
    Errno(i32),
    /// Flags were refused, by this function of virtlockd's.
    Flags(&'static str),
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub code: Code,
    /// Where from.
    pub domain: Domain,
    /// Without what libvirt puts before it.
    text: String,
    detail: Detail,
}

/// A path or a name, from a client.
pub(super) fn named(bytes: &[u8]) -> String {
    shown_path(Path::new(OsStr::from_bytes(bytes)))
}

/// The text, printable, and no longer than is allowed.
fn bounded(text: &str) -> String {
    let text = shown(text);
    if text.len() <= LONGEST {
        return text;
    }
    let mark = " … ";
    let (mut start, mut end) = (LONGEST - END - mark.len(), text.len() - END);
    // Both ends of a text are boundaries, so neither goes beyond them.
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    [&text[..start], mark, &text[end..]].concat()
}

/// The C library's words for an error: those that virtlockd's users know.
fn words(errno: Errno) -> String {
    let error = io::Error::from(errno).to_string();
    error.split(" (os error ").next().unwrap_or_default().to_owned()
}

impl Fault {
    /// A refusal with a text of our own; libvirt's words for the code are put before it.
    #[must_use]
    pub fn new(code: Code, domain: Domain, text: impl AsRef<str>) -> Self {
        Self { code, domain, text: bounded(text.as_ref()), detail: Detail::None }
    }

    /// The system refused or failed; its own words are put after the text.
    #[must_use]
    pub fn system(text: impl AsRef<str>, errno: Errno) -> Self {
        let text = format!("{}: {}", text.as_ref(), words(errno));
        let detail = Detail::Errno(errno as i32);
        Self { detail, ..Self::new(Code::System, Domain::Lockspace, text) }
    }

    fn rpc(text: impl AsRef<str>) -> Self {
        Self::new(Code::Rpc, Domain::Rpc, text)
    }

    fn internal(domain: Domain, text: impl AsRef<str>) -> Self {
        Self::new(Code::Internal, domain, text)
    }

    /// Nobody said yet for which machine this connection speaks.
    #[must_use]
    pub fn unregistered() -> Self {
        let text = "lock owner details have not been registered";
        Self::new(Code::OperationInvalid, Domain::Rpc, text)
    }

    /// The connection gave up its rights.
    #[must_use]
    pub fn restricted() -> Self {
        let text = "lock manager connection has been restricted";
        Self::new(Code::OperationDenied, Domain::Rpc, text)
    }

    /// Flags that are not known; only the unknown ones are told.
    #[must_use]
    pub fn unsupported_flags(call: &Call<'_>, flags: u32) -> Self {
        let function = call.dispatcher();
        let text = format!("unsupported flags (0x{flags:x}) in function {function}");
        let detail = Detail::Flags(function);
        Self { detail, ..Self::new(Code::InvalidArgument, Domain::Rpc, text) }
    }

    /// There is no such lockspace.
    #[must_use]
    pub fn no_lockspace(path: &[u8]) -> Self {
        let text = format!("Lockspace for path {} does not exist", named(path));
        Self::internal(Domain::Rpc, text)
    }

    /// There is such a lockspace already.
    #[must_use]
    pub fn lockspace_exists(path: &[u8]) -> Self {
        let text = format!("Lockspace for path {} already exists", named(path));
        Self::internal(Domain::Rpc, text)
    }

    /// The lockspace without a directory was to be made, which is there from the start.
    #[must_use]
    pub fn default_lockspace_exists() -> Self {
        let text = "the default lockspace already exists";
        Self::new(Code::OperationInvalid, Domain::Rpc, text)
    }

    /// There is something else in the place of a lockspace.
    #[must_use]
    pub fn not_a_directory(path: &[u8]) -> Self {
        let text = format!("Lockspace location {} exists, but is not a directory", named(path));
        Self::internal(Domain::Lockspace, text)
    }

    /// A lockspace could not be made.
    #[must_use]
    pub fn lockspace_not_made(path: &[u8], errno: Errno) -> Self {
        Self::system(format!("Unable to create lockspace {}", named(path)), errno)
    }

    /// Somebody holds it. What is known of the holder follows, as in `exclusively by VM "web1"`;
    /// virtlockd itself says nothing of him.
    #[must_use]
    pub fn locked(name: &[u8], holder: Option<&str>) -> Self {
        let mut text = format!("Lockspace resource '{}' is locked", named(name));
        if let Some(holder) = holder {
            text.push(' ');
            text.push_str(holder);
        }
        Self::new(Code::ResourceBusy, Domain::Lockspace, text)
    }

    /// Nobody holds what was to be released. libvirt releases twice when a machine is suspended,
    /// and takes this for an answer.
    #[must_use]
    pub fn not_locked(name: &[u8]) -> Self {
        let text = format!("Lockspace resource '{}' is not locked", named(name));
        Self::new(Code::ResourceBusy, Domain::Lockspace, text)
    }

    /// Somebody else holds what was to be released.
    #[must_use]
    pub fn not_the_holder(pid: u32) -> Self {
        let text = format!("owner {pid} does not hold the resource lock");
        Self::internal(Domain::Lockspace, text)
    }

    /// What was to be locked could not be opened.
    #[must_use]
    pub fn not_opened(path: &[u8], create: bool, errno: Errno) -> Self {
        let open = if create { "open/create" } else { "open" };
        Self::system(format!("Unable to {open} resource {}", named(path)), errno)
    }

    /// The kernel refused the lock, for another reason than that somebody has it.
    #[must_use]
    pub fn not_acquired(path: &[u8], errno: Errno) -> Self {
        Self::system(format!("Unable to acquire lock on '{}'", named(path)), errno)
    }

    /// A resource could not be created.
    #[must_use]
    pub fn not_created(path: &[u8], errno: Errno) -> Self {
        Self::system(format!("cannot create file '{}'", named(path)), errno)
    }

    /// A resource could not be removed.
    #[must_use]
    pub fn not_deleted(path: &[u8], errno: Errno) -> Self {
        Self::system(format!("Unable to delete lockspace resource {}", named(path)), errno)
    }

    /// Nobody here speaks that protocol.
    #[must_use]
    pub fn unknown_program(program: u32, version: u32) -> Self {
        Self::rpc(format!("Cannot find program {program} version {version}"))
    }

    /// A call with a status other than "well".
    #[must_use]
    pub fn unexpected_status(status: i32) -> Self {
        Self::rpc(format!("Unexpected message status {status}"))
    }

    /// What libvirt shows.
    #[must_use]
    pub fn message(&self) -> String {
        match self.detail {
            Detail::Flags(_) => self.text.clone(),
            Detail::None | Detail::Errno(_) => [self.code.prefix(), &self.text].concat(),
        }
    }

    /// The payload of a reply whose status is an error.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let message = self.message();
        let format = [self.code.prefix(), "%s"].concat();
        let (first, second, numbers) = match self.detail {
            Detail::None => (format.as_str(), self.text.as_str(), (-1, -1)),
            Detail::Errno(errno) => (format.as_str(), self.text.as_str(), (errno, -1)),
            Detail::Flags(function) => (function, "flags", (0, 0)),
        };
        let mut writer = Writer::new();
        writer.i32(self.code as i32).i32(self.domain as i32);
        writer.optional_string(Some(message.as_bytes())).i32(LEVEL);
        // No machine, which a lock service knows nothing of.
        writer.u32(0);
        writer.optional_string(Some(first.as_bytes())).optional_string(Some(second.as_bytes()));
        writer.optional_string(None);
        writer.i32(numbers.0).i32(numbers.1);
        // No network either.
        writer.u32(0);
        writer.into_bytes()
    }
}

impl From<Undecodable> for Fault {
    fn from(undecodable: Undecodable) -> Self {
        Self::rpc(undecodable.to_string())
    }
}

#[cfg(test)]
mod tests;

//! Error replies: libvirt's remote error, with the codes and texts that its users know.
//!
//! libvirt shows the message. It logs the other fields: the format of the message, the arguments of the
//! format, and the errno. All of them are encoded as virtlockd encodes them. A text with names from
//! clients is escaped, and one that is too long is truncated in the middle, so that every message is
//! readable.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::call::{Call, CallError};
use super::xdr::Writer;
use crate::lock::text::escape::{shown, shown_path};

/// The maximum length of a text, in bytes.
pub const MAX_TEXT: usize = 4096;
/// The length of the end of a truncated text, which has the cause.
const TEXT_END: usize = 512;

/// An error code: libvirt's `virErrorNumber`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// An internal error, such as a missing lockspace.
    Internal = 1,
    /// An invalid argument.
    InvalidArgument = 8,
    /// The connection is restricted.
    OperationDenied = 29,
    /// A failed system call.
    System = 38,
    /// A violation of the protocol.
    Rpc = 39,
    /// A call that is not valid in the present state.
    OperationInvalid = 55,
    /// A lock that has another holder.
    ResourceBusy = 87,
}

impl Code {
    /// Returns libvirt's prefix for the text of an error with this code.
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

/// The source of an error: libvirt's `virErrorDomain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// The RPC layer.
    Rpc = 7,
    /// The lockspaces and locks.
    Lockspace = 51,
}

/// libvirt's `VIR_ERR_ERROR`, as opposed to a warning.
const LEVEL: i32 = 2;

/// The fields of an error besides its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    None,
    Errno(i32),
    /// Unsupported flags, and the function of virtlockd that would reject them.
    Flags(&'static str),
}

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// The code.
    pub code: Code,
    /// The source.
    pub domain: Domain,
    /// The text without libvirt's prefix.
    text: String,
    detail: Detail,
}

/// Formats a path or a name from a client for a message.
pub(super) fn shown_name(bytes: &[u8]) -> String {
    shown_path(Path::new(OsStr::from_bytes(bytes)))
}

/// Returns the text with escapes, and no longer than [`MAX_TEXT`].
fn bounded(text: &str) -> String {
    let text = shown(text);
    if text.len() <= MAX_TEXT {
        return text;
    }
    let mark = " … ";
    let (mut start, mut end) = (MAX_TEXT - TEXT_END - mark.len(), text.len() - TEXT_END);
    // Both ends of a text are boundaries, so neither loop leaves it.
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    [&text[..start], mark, &text[end..]].concat()
}

/// Returns the C library's text for an errno, as virtlockd's messages have it.
fn errno_text(errno: Errno) -> String {
    let error = io::Error::from(errno).to_string();
    error.split(" (os error ").next().unwrap_or_default().to_owned()
}

impl RemoteError {
    /// Returns an error with a text; [`Self::message`] begins with libvirt's prefix for the code.
    #[must_use]
    pub fn new(code: Code, domain: Domain, text: impl AsRef<str>) -> Self {
        Self { code, domain, text: bounded(text.as_ref()), detail: Detail::None }
    }

    /// Returns the error of a failed system call. The errno's text is appended.
    #[must_use]
    pub fn system(text: impl AsRef<str>, errno: Errno) -> Self {
        let text = format!("{}: {}", text.as_ref(), errno_text(errno));
        let detail = Detail::Errno(errno.raw_os_error());
        Self { detail, ..Self::new(Code::System, Domain::Lockspace, text) }
    }

    fn rpc(text: impl AsRef<str>) -> Self {
        Self::new(Code::Rpc, Domain::Rpc, text)
    }

    fn internal(domain: Domain, text: impl AsRef<str>) -> Self {
        Self::new(Code::Internal, domain, text)
    }

    /// Returns the error of a call before `Register`.
    #[must_use]
    pub fn unregistered() -> Self {
        let text = "lock owner details have not been registered";
        Self::new(Code::OperationInvalid, Domain::Rpc, text)
    }

    /// Returns the error of a call after `Restrict`.
    #[must_use]
    pub fn restricted() -> Self {
        let text = "lock manager connection has been restricted";
        Self::new(Code::OperationDenied, Domain::Rpc, text)
    }

    /// Returns the error of a call with unknown flags, which `flags` contains.
    #[must_use]
    pub fn unsupported_flags(call: &Call<'_>, flags: u32) -> Self {
        let function = call.dispatcher();
        let text = format!("unsupported flags (0x{flags:x}) in function {function}");
        let detail = Detail::Flags(function);
        Self { detail, ..Self::new(Code::InvalidArgument, Domain::Rpc, text) }
    }

    /// Returns the error of a lockspace that does not exist.
    #[must_use]
    pub fn no_lockspace(path: &[u8]) -> Self {
        let text = format!("Lockspace for path {} does not exist", shown_name(path));
        Self::internal(Domain::Rpc, text)
    }

    /// Returns the error of creating a lockspace that exists.
    #[must_use]
    pub fn lockspace_exists(path: &[u8]) -> Self {
        let text = format!("Lockspace for path {} already exists", shown_name(path));
        Self::internal(Domain::Rpc, text)
    }

    /// Returns the error of creating the lockspace without a directory, which always exists.
    #[must_use]
    pub fn default_lockspace_exists() -> Self {
        let text = "the default lockspace already exists";
        Self::new(Code::OperationInvalid, Domain::Rpc, text)
    }

    /// Returns the error of a lockspace whose path is not a directory.
    #[must_use]
    pub fn not_a_directory(path: &[u8]) -> Self {
        let text =
            format!("Lockspace location {} exists, but is not a directory", shown_name(path));
        Self::internal(Domain::Lockspace, text)
    }

    /// Returns the error of a lockspace that cannot be created.
    #[must_use]
    pub fn lockspace_not_created(path: &[u8], errno: Errno) -> Self {
        Self::system(format!("Unable to create lockspace {}", shown_name(path)), errno)
    }

    /// Returns the error of a resource that is locked. The text ends with the holder if that is known,
    /// as in `exclusively by VM "web1"`; virtlockd's text never has it.
    #[must_use]
    pub fn locked(name: &[u8], holder: Option<&str>) -> Self {
        let mut text = format!("Lockspace resource '{}' is locked", shown_name(name));
        if let Some(holder) = holder {
            text.push(' ');
            text.push_str(holder);
        }
        Self::new(Code::ResourceBusy, Domain::Lockspace, text)
    }

    /// Returns the error of releasing a resource that is not locked. libvirt releases twice when a VM is
    /// suspended, and accepts this error.
    #[must_use]
    pub fn not_locked(name: &[u8]) -> Self {
        let text = format!("Lockspace resource '{}' is not locked", shown_name(name));
        Self::new(Code::ResourceBusy, Domain::Lockspace, text)
    }

    /// Returns the error of releasing a lock of another owner.
    #[must_use]
    pub fn not_the_holder(pid: u32) -> Self {
        let text = format!("owner {pid} does not hold the resource lock");
        Self::internal(Domain::Lockspace, text)
    }

    /// Returns the error of a resource that cannot be opened.
    #[must_use]
    pub fn not_opened(path: &[u8], create: bool, errno: Errno) -> Self {
        let open = if create { "open/create" } else { "open" };
        Self::system(format!("Unable to {open} resource {}", shown_name(path)), errno)
    }

    /// Returns the error of a lock that the kernel refused, but not because of another holder.
    #[must_use]
    pub fn not_acquired(path: &[u8], errno: Errno) -> Self {
        Self::system(format!("Unable to acquire lock on '{}'", shown_name(path)), errno)
    }

    /// Returns the error of a resource that cannot be created.
    #[must_use]
    pub fn not_created(path: &[u8], errno: Errno) -> Self {
        Self::system(format!("cannot create file '{}'", shown_name(path)), errno)
    }

    /// Returns the error of a resource that cannot be deleted.
    #[must_use]
    pub fn not_deleted(path: &[u8], errno: Errno) -> Self {
        Self::system(format!("Unable to delete lockspace resource {}", shown_name(path)), errno)
    }

    /// Returns the error of a call of an unknown program.
    #[must_use]
    pub fn unknown_program(program: u32, version: u32) -> Self {
        Self::rpc(format!("Cannot find program {program} version {version}"))
    }

    /// Returns the error of a call whose status is not [`OK`](super::frame::status::OK).
    #[must_use]
    pub fn unexpected_status(status: i32) -> Self {
        Self::rpc(format!("Unexpected message status {status}"))
    }

    /// Returns the message that libvirt shows.
    #[must_use]
    pub fn message(&self) -> String {
        match self.detail {
            Detail::Flags(_) => self.text.clone(),
            Detail::None | Detail::Errno(_) => [self.code.prefix(), &self.text].concat(),
        }
    }

    /// Returns the payload of a reply with this error.
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
        // No domain (VM).
        writer.u32(0);
        writer.optional_string(Some(first.as_bytes())).optional_string(Some(second.as_bytes()));
        writer.optional_string(None);
        writer.i32(numbers.0).i32(numbers.1);
        // No network.
        writer.u32(0);
        writer.into_bytes()
    }
}

impl From<CallError> for RemoteError {
    fn from(error: CallError) -> Self {
        Self::rpc(error.to_string())
    }
}

#[cfg(test)]
mod tests;

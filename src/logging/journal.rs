//! Entries for the journal, with fields, in the native protocol of systemd
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>).
//!
//! A field `owner.uuid` becomes `VMLOCKD_OWNER_UUID`, with its value unchanged: each value is sent with
//! its length, so no value can forge another field or entry. The field `event` adds the `MESSAGE_ID`
//! of its kind. A field whose name ends with [`EACH`] has several values, one a line, and is sent as
//! several fields. A cause is added to the message besides.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::cause::Cause;
use super::post::Post;
use crate::catalog::Kind;

/// The suffix of the name of a field that has several values.
pub(super) const EACH: &str = ".each";

/// The size of most entries, in bytes.
const ROOM: usize = 1024;

/// The journal, as a layer.
#[derive(Debug)]
pub(super) struct Journal(Post);

impl Journal {
    /// Opens the journal of this host.
    ///
    /// # Errors
    ///
    /// Those of the system calls if journald does not listen.
    pub(super) fn open() -> io::Result<Self> {
        Post::open().map(Self)
    }

    /// Returns the queue of entries.
    pub(super) fn post(&self) -> Post {
        self.0.clone()
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Line::new(priority(*metadata.level()), Cause::of(event));
        line.put("TARGET", metadata.target().as_bytes());
        if let Some(file) = metadata.file() {
            line.put("CODE_FILE", file.as_bytes());
        }
        if let Some(number) = metadata.line() {
            line.put_with("CODE_LINE", |line| write!(line, "{number}"));
        }
        event.record(&mut line);
        self.0.send(line.bytes);
    }
}

/// Returns the number of a level in syslog.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// An entry of the journal, as it is sent.
#[derive(Debug)]
pub(super) struct Line {
    bytes: Vec<u8>,
    /// What goes behind the message.
    cause: Cause,
}

impl Line {
    fn new(priority: u8, cause: Cause) -> Self {
        let mut line = Self { bytes: Vec::with_capacity(ROOM), cause };
        line.put("PRIORITY", &[b'0' + priority]);
        line.put("SYSLOG_IDENTIFIER", b"vmlockd");
        line
    }

    /// Returns an entry that has a message only, a warning.
    pub(super) fn of(message: &str) -> Vec<u8> {
        let mut line = Self::new(priority(Level::WARN), Cause::default());
        line.put("MESSAGE", message.as_bytes());
        line.bytes
    }

    /// Adds a field by its name in the journal.
    fn put(&mut self, name: &str, value: &[u8]) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.finish(value);
    }

    /// Adds a field whose value `write` writes.
    fn put_with(&mut self, name: &str, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.finish_with(write);
    }

    /// Adds the value of a field whose name has been added: its length, then its bytes.
    fn finish(&mut self, value: &[u8]) {
        self.bytes.push(b'\n');
        self.bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }

    fn finish_with(&mut self, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) {
        self.bytes.push(b'\n');
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 8]);
        // A value whose `Display` fails is cut off there.
        let _ = write(&mut Text(&mut self.bytes));
        let length = (self.bytes.len() - begin - 8) as u64;
        if let Some(place) = self.bytes.get_mut(begin..begin + 8) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        self.bytes.push(b'\n');
    }

    /// Begins a field of this service, with its name in capitals.
    fn begin(&mut self, name: &str) {
        self.bytes.extend_from_slice(b"VMLOCKD_");
        let letter = |c: u8| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { b'_' };
        self.bytes.extend(name.bytes().map(letter));
    }

    fn put_ours(&mut self, name: &str, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) {
        if name == "message" {
            self.bytes.extend_from_slice(b"MESSAGE");
            let cause = std::mem::take(&mut self.cause);
            self.finish_with(|line| {
                write(line).and_then(|()| fmt::write(line, format_args!("{cause}")))
            });
        } else {
            self.begin(name);
            self.finish_with(write);
        }
    }
}

/// Text that is appended to an entry.
struct Text<'l>(&'l mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_all(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(name) = field.name().strip_suffix(EACH) {
            for value in value.lines() {
                self.begin(name);
                self.finish(value.as_bytes());
            }
            return;
        }
        if field.name() == "event"
            && let Some(kind) = Kind::of(value)
        {
            self.put("MESSAGE_ID", kind.message_id().as_bytes());
        }
        // A value that is not known is left out.
        if !value.is_empty() {
            self.put_ours(field.name(), |line| line.write_str(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put_ours(field.name(), |line| write!(line, "{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_ours(field.name(), |line| write!(line, "{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of an entry, as journald reads it.
    fn fields(mut bytes: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|c| *c == b'\n').unwrap();
            let (name, rest) = (&bytes[..end], &bytes[end + 1..]);
            let (length, rest) = rest.split_first_chunk::<8>().unwrap();
            let (value, rest) =
                rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            fields.push((text(name), text(value)));
            bytes = rest.strip_prefix(b"\n").unwrap();
        }
        fields
    }

    /// Keeps what would be sent.
    struct Kept(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = Line::new(priority(*event.metadata().level()), Cause::of(event));
            event.record(&mut line);
            *self.0.lock().unwrap() = line.bytes;
        }
    }

    #[test]
    fn what_is_said_is_sent_to_the_letter() {
        use tracing_subscriber::layer::SubscriberExt as _;
        let kept = std::sync::Arc::default();
        let log = tracing_subscriber::registry().with(Kept(std::sync::Arc::clone(&kept)));
        let forged = "/a\nMESSAGE_ID=0\n";
        tracing::subscriber::with_default(log, || {
            tracing::warn!(
                event = Kind::Lost.as_str(),
                lock = 7_u64,
                owner.uid = 0_u32,
                owner.name = "",
                resource = forged,
                holder.name.each = "web1\nweb2",
                "LOST {}",
                1
            );
        });
        let told = fields(&kept.lock().unwrap());
        let told: Vec<_> = told.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "vmlockd"),
            ("MESSAGE", "LOST 1"),
            ("MESSAGE_ID", Kind::Lost.message_id()),
            ("VMLOCKD_EVENT", "lost"),
            ("VMLOCKD_LOCK", "7"),
            ("VMLOCKD_OWNER_UID", "0"),
            ("VMLOCKD_RESOURCE", forged),
            ("VMLOCKD_HOLDER_NAME", "web1"),
            ("VMLOCKD_HOLDER_NAME", "web2"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn the_message_ends_with_the_cause_since_journalctl_prints_no_fields() {
        use tracing_subscriber::layer::SubscriberExt as _;
        let kept = std::sync::Arc::default();
        let log = tracing_subscriber::registry().with(Kept(std::sync::Arc::clone(&kept)));
        tracing::subscriber::with_default(log, || {
            let error = io::Error::from_raw_os_error(13);
            tracing::error!(lock = 7_u64, %error, "cannot lock {}", "/srv/a");
        });
        let sent = fields(&kept.lock().unwrap());
        let of = |name: &str| sent.iter().find(|(field, _)| field == name).unwrap().1.clone();
        assert_eq!(of("MESSAGE"), "cannot lock /srv/a: Permission denied (os error 13)");
        assert_eq!(of("VMLOCKD_ERROR"), "Permission denied (os error 13)");
        assert_eq!(of("VMLOCKD_LOCK"), "7");
    }
}

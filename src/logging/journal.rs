//! Entries for the journal, with fields, in the native protocol of systemd
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>).
//!
//! A field `owner.uuid` becomes `VMLOCKD_OWNER_UUID`, with its value unchanged: each value is sent with
//! its length, so no value can forge another field or entry. The field `event` adds the `MESSAGE_ID`
//! of the event. A field whose name ends with [`MULTI_VALUE`] contains one value per line, and is sent as
//! several fields. A cause is also appended to the message.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::cause::Cause;
use super::journal_sender::JournalSender;
use super::queue::Urgency;
use crate::catalog::LogEvent;

/// The suffix of the name of a field that has several values.
pub(super) const MULTI_VALUE: &str = ".each";

thread_local! {
    /// A buffer for entries, so that an entry does not allocate memory.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A layer that sends messages to the journal.
#[derive(Debug)]
pub(super) struct JournalLayer(JournalSender);

impl JournalLayer {
    /// Connects to the journald of this host.
    ///
    /// # Errors
    ///
    /// The errors of `sendto(2)` if journald does not listen.
    pub(super) fn open() -> io::Result<Self> {
        JournalSender::open().map(Self)
    }

    /// Returns the sender.
    pub(super) fn sender(&self) -> JournalSender {
        self.0.clone()
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let level = *metadata.level();
        // The buffer is gone while the thread ends.
        let buffer = BUFFER.try_with(Cell::take).unwrap_or_default();
        let mut entry = Entry::new(buffer, priority(level), Cause::of(event));
        entry.put("TARGET", metadata.target().as_bytes());
        if let Some(file) = metadata.file() {
            entry.put("CODE_FILE", file.as_bytes());
        }
        if let Some(number) = metadata.line() {
            entry.put_with("CODE_LINE", |text| write!(text, "{number}"));
        }
        event.record(&mut entry);
        self.0.send(Urgency::of(level), &entry.bytes);
        entry.bytes.clear();
        let _ = BUFFER.try_with(|buffer| buffer.set(entry.bytes));
    }
}

/// Returns syslog's number of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// An encoded entry.
#[derive(Debug)]
pub(super) struct Entry {
    bytes: Vec<u8>,
    /// The cause, until it is appended to the message.
    cause: Cause,
}

impl Entry {
    /// Begins an entry in an empty buffer.
    fn new(bytes: Vec<u8>, priority: u8, cause: Cause) -> Self {
        let mut entry = Self { bytes, cause };
        entry.put("PRIORITY", &[b'0' + priority]);
        entry.put("SYSLOG_IDENTIFIER", b"vmlockd");
        entry
    }

    /// Encodes a warning that has only a message.
    pub(super) fn warning(message: &str) -> Vec<u8> {
        let mut entry = Self::new(Vec::new(), priority(Level::WARN), Cause::default());
        entry.put("MESSAGE", message.as_bytes());
        entry.bytes
    }

    /// Adds a field. `name` is its name in the journal.
    fn put(&mut self, name: &str, value: &[u8]) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.put_value(value);
    }

    /// Adds a field. `write` writes its value.
    fn put_with(&mut self, name: &str, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.put_value_with(write);
    }

    /// Adds the value of the field whose name was added last: its length, and its bytes.
    fn put_value(&mut self, value: &[u8]) {
        self.bytes.push(b'\n');
        self.bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }

    fn put_value_with(&mut self, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) {
        self.bytes.push(b'\n');
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 8]);
        // A value whose `Display` fails is truncated.
        let _ = write(&mut Text(&mut self.bytes));
        let length = (self.bytes.len() - start - 8) as u64;
        if let Some(prefix) = self.bytes.get_mut(start..start + 8) {
            prefix.copy_from_slice(&length.to_le_bytes());
        }
        self.bytes.push(b'\n');
    }

    /// Adds the name of a field of this service, in capitals.
    fn put_name(&mut self, name: &str) {
        self.bytes.extend_from_slice(b"VMLOCKD_");
        let letter = |c: u8| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { b'_' };
        self.bytes.extend(name.bytes().map(letter));
    }

    /// Adds a field of a message. `write` writes its value.
    fn put_field(&mut self, name: &str, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) {
        if name == "message" {
            self.bytes.extend_from_slice(b"MESSAGE");
            let cause = std::mem::take(&mut self.cause);
            self.put_value_with(|text| {
                write(text).and_then(|()| fmt::write(text, format_args!("{cause}")))
            });
        } else {
            self.put_name(name);
            self.put_value_with(write);
        }
    }
}

/// A writer that appends to an entry.
struct Text<'l>(&'l mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_all(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(name) = field.name().strip_suffix(MULTI_VALUE) {
            for value in value.lines() {
                self.put_name(name);
                self.put_value(value.as_bytes());
            }
            return;
        }
        if field.name() == "event"
            && let Some(kind) = LogEvent::of(value)
        {
            self.put("MESSAGE_ID", kind.message_id().as_bytes());
        }
        // An empty value is unknown, and the field is omitted.
        if !value.is_empty() {
            self.put_field(field.name(), |text| text.write_str(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put_field(field.name(), |text| write!(text, "{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_field(field.name(), |text| write!(text, "{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes the fields of an entry, as journald does.
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

    /// A layer that stores the last entry.
    struct Stored(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl<S: Subscriber> Layer<S> for Stored {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut entry =
                Entry::new(Vec::new(), priority(*event.metadata().level()), Cause::of(event));
            event.record(&mut entry);
            *self.0.lock().unwrap() = entry.bytes;
        }
    }

    #[test]
    fn values_are_sent_unchanged() {
        use tracing_subscriber::layer::SubscriberExt as _;
        let stored = std::sync::Arc::default();
        let log = tracing_subscriber::registry().with(Stored(std::sync::Arc::clone(&stored)));
        let forged = "/a\nMESSAGE_ID=0\n";
        tracing::subscriber::with_default(log, || {
            tracing::warn!(
                event = LogEvent::Lost.as_str(),
                lock = 7_u64,
                owner.uid = 0_u32,
                owner.name = "",
                resource = forged,
                holder.name.each = "web1\nweb2",
                "LOST {}",
                1
            );
        });
        let sent = fields(&stored.lock().unwrap());
        let sent: Vec<_> = sent.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "vmlockd"),
            ("MESSAGE", "LOST 1"),
            ("MESSAGE_ID", LogEvent::Lost.message_id()),
            ("VMLOCKD_EVENT", "lost"),
            ("VMLOCKD_LOCK", "7"),
            ("VMLOCKD_OWNER_UID", "0"),
            ("VMLOCKD_RESOURCE", forged),
            ("VMLOCKD_HOLDER_NAME", "web1"),
            ("VMLOCKD_HOLDER_NAME", "web2"),
        ];
        assert_eq!(sent, expected);
    }

    #[test]
    fn the_message_ends_with_the_cause() {
        use tracing_subscriber::layer::SubscriberExt as _;
        let stored = std::sync::Arc::default();
        let log = tracing_subscriber::registry().with(Stored(std::sync::Arc::clone(&stored)));
        tracing::subscriber::with_default(log, || {
            let error = io::Error::from_raw_os_error(13);
            tracing::error!(lock = 7_u64, %error, "cannot lock {}", "/srv/a");
        });
        let sent = fields(&stored.lock().unwrap());
        let of = |name: &str| sent.iter().find(|(field, _)| field == name).unwrap().1.clone();
        assert_eq!(of("MESSAGE"), "cannot lock /srv/a: Permission denied (os error 13)");
        assert_eq!(of("VMLOCKD_ERROR"), "Permission denied (os error 13)");
        assert_eq!(of("VMLOCKD_LOCK"), "7");
    }
}

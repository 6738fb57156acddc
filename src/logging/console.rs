//! Formats messages as lines of text.

use std::cell::Cell;
use std::fmt::{self, Debug, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::{Layer, Registry};

use super::cause::is_cause;

/// A formatter that writes the message, the cause, and the fields that the message does not contain.
pub(super) struct Fields;

/// Whether the message contains the value of this field.
fn is_in_message(name: &str) -> bool {
    let names = ["event", "resource", "mode", "owner.name", "owner.uid", "from.name", "from.uid"];
    names.contains(&name) || name.ends_with(super::journal::MULTI_VALUE)
}

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut parts = LineParts::default();
        fields.record(&mut parts);
        let LineParts { message, cause, rest } = parts;
        write!(writer, "{message}{cause}{rest}")
    }
}

/// The parts of a line: message, cause, and fields.
#[derive(Debug, Default)]
struct LineParts {
    message: String,
    cause: String,
    rest: String,
}

impl Visit for LineParts {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String has no way to fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name if is_cause(name) => write!(self.cause, ": {value:?}"),
            name if is_in_message(name) => Ok(()),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }
}

/// A clock that formats the current time: UTC, RFC 3339, with microseconds.
struct Utc;

/// The length of a second in a timestamp, such as `2026-12-01T14:03:59`.
const SECOND_LENGTH: usize = 19;

thread_local! {
    /// The second that was formatted last, as its number and its text, since the division of a time into
    /// years, days and hours costs as much as the rest of a line.
    static SECOND: Cell<Option<(u64, [u8; SECOND_LENGTH])>> = const { Cell::new(None) };
}

/// Returns the text of a second. `None` for a time that RFC 3339 cannot express.
fn format_second(second: u64) -> Option<[u8; SECOND_LENGTH]> {
    let timestamp = jiff::Timestamp::from_second(i64::try_from(second).ok()?).ok()?;
    timestamp.to_string().as_bytes().first_chunk().copied()
}

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        // A clock that is set before 1970 shows its beginning.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The cache is gone while the thread ends.
        let cached = SECOND.try_with(Cell::get).ok().flatten();
        let text = match cached {
            Some((second, text)) if second == now.as_secs() => text,
            _ => {
                let text = format_second(now.as_secs()).ok_or(fmt::Error)?;
                let _ = SECOND.try_with(|cached| cached.set(Some((now.as_secs(), text))));
                text
            }
        };
        writer.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)?;
        write!(writer, ".{:06}Z", now.subsec_micros())
    }
}

/// Returns a layer that writes lines to `output`; each begins with the time if `has_timestamp`.
pub(super) fn layer<W>(
    output: W,
    has_timestamp: bool,
    colours: bool,
) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(Fields)
        .with_writer(output)
        .with_ansi(colours)
        .with_target(false);
    if has_timestamp { lines.with_timer(Utc).boxed() } else { lines.without_time().boxed() }
}

/// Returns the current time (UTC, RFC 3339) and a space, as it precedes a line.
pub(super) fn timestamp() -> String {
    let mut text = String::new();
    // Writing to a String has no way to fail.
    let _ = Utc.format_time(&mut Writer::new(&mut text));
    text.push(' ');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_message_the_cause_and_other_fields() {
        use std::io;
        use std::sync::{Arc, Mutex};
        use tracing_subscriber::layer::SubscriberExt as _;

        #[derive(Clone, Default)]
        struct Text(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Text {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for has_timestamp in [false, true] {
            let text = Text::default();
            let writer = text.clone();
            let layer = layer(move || writer.clone(), has_timestamp, false);
            tracing::subscriber::with_default(Registry::default().with(layer), || {
                let error = io::Error::from_raw_os_error(2);
                tracing::warn!(%error, lock = 7, owner.uid = 0, "cannot unlock /srv/a");
            });
            let line = String::from_utf8(text.0.lock().unwrap().clone()).unwrap();
            let words =
                "WARN cannot unlock /srv/a: No such file or directory (os error 2) lock=7\n";
            let (time, rest) = line.split_once(" WARN ").unwrap();
            assert_eq!(format!("WARN {rest}"), words, "{line}");
            if has_timestamp {
                let time: jiff::Timestamp = time.trim_end().parse().unwrap();
                assert!(time.duration_until(jiff::Timestamp::now()).as_secs() < 60);
            } else {
                assert_eq!(time, "");
            }
        }
    }

    #[test]
    fn a_timestamp_has_the_format_of_a_line() {
        let timestamp = timestamp();
        assert!(
            timestamp.ends_with("Z ") && timestamp.trim_end().parse::<jiff::Timestamp>().is_ok()
        );
        assert_eq!(timestamp.len(), "2026-12-01T14:03:59.123456Z ".len());
    }

    #[test]
    fn a_second_is_formatted_in_utc() {
        let text =
            |second| format_second(second).map(|text| String::from_utf8(text.into()).unwrap());
        assert_eq!(text(0).unwrap(), "1970-01-01T00:00:00");
        assert_eq!(text(1_796_133_839).unwrap(), "2026-12-01T14:03:59");
        assert_eq!(text(u64::MAX), None);
    }
}

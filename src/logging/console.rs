//! Formats messages as lines of text.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
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
    if has_timestamp { lines.with_timer(SystemTime).boxed() } else { lines.without_time().boxed() }
}

/// Returns the current time (UTC, RFC 3339) and a space, as it precedes a line.
pub(super) fn timestamp() -> String {
    let mut text = String::new();
    // Writing to a String has no way to fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
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
    }
}

//! A line of text, for people who read it as it is.

use std::fmt;

use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// Writes the message, and behind it what it does not say itself.
pub(super) struct Fields;

/// What is for machines: the message says it in words.
fn is_said(name: &str) -> bool {
    matches!(name, "event" | "resource" | "owner.name") || name.ends_with(super::journal::EACH)
}

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let format = debug_fn(|writer: &mut Writer<'_>, field, value| match field.name() {
            "message" => write!(writer, "{value:?}"),
            name if is_said(name) => Ok(()),
            name => write!(writer, " {name}={value:?}"),
        });
        let mut visitor = tracing_subscriber::field::MakeVisitor::make_visitor(&format, writer);
        fields.record(&mut visitor);
        visitor.finish()
    }
}

//! The state file as lines of JSON, for an administrator.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::contents::Contents;
use super::entry::StateEntry;
use super::reader::read;
use super::record::Record;
use crate::keep::Error;
use crate::lock::Anchor;

/// Writes the state in a runtime directory: an object about the file, an object for each entry with
/// its kind, stage, mode and fields, and an object for each damaged part. Changes nothing.
///
/// # Errors
///
/// The errors of [`read`]; [`Error::System`] if `out` cannot be written to.
pub fn write(directory: &Path, mut out: impl Write) -> Result<(), Error> {
    let contents = read(directory)?;
    let written = lines(&contents).try_for_each(|line| writeln!(out, "{line}"));
    written.and_then(|()| out.flush()).map_err(Error::system("write to standard output"))
}

/// Returns the lines.
fn lines(contents: &Contents) -> impl Iterator<Item = Value> {
    let file = (!contents.missing).then(|| {
        json!({
            "kind": "file",
            "version": contents.version,
            "earlier-boot": contents.outlived,
            "highest-lock": contents.highest.lock,
            "highest-anchor": contents.highest.anchor,
            "damaged": contents.damaged(),
        })
    });
    let entries = contents.entries.iter().map(|entry| object(entry).into());
    let damage = contents.damage.iter().map(|damage| {
        json!({
            "kind": "damaged",
            "offset": damage.offset,
            "length": damage.length,
            "names": damage.names,
        })
    });
    // These entries are among the damaged parts as well.
    let unproven = contents.unproven.iter().map(|entry| {
        let mut object = object(entry);
        object.insert("damaged".to_owned(), true.into());
        object.into()
    });
    file.into_iter().chain(entries).chain(unproven).chain(damage)
}

/// Returns the object of an entry.
fn object(entry: &StateEntry) -> Map<String, Value> {
    // A record is an object with its kind as the only member.
    let record = serde_json::to_value(&entry.record).ok();
    let fields = record.as_ref().and_then(Value::as_object).and_then(|it| it.values().next());
    let mut object = fields.and_then(Value::as_object).cloned().unwrap_or_default();
    if let Record::Anchor(anchor) = &entry.record {
        // Its kind has another name in the file.
        let anchor = anchor.anchor().map(Anchor::as_str);
        object.insert("anchor".to_owned(), anchor.into());
    }
    object.insert("kind".to_owned(), entry.record.kind().into());
    object.insert("stage".to_owned(), entry.stage.as_str().into());
    if let Some(mode) = entry.mode {
        object.insert("mode".to_owned(), mode.as_str().into());
    }
    object
}

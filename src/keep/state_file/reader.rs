//! Reading the state file, whatever its version.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::json;
use super::json::format::{MAGIC, NEWEST, OLDEST};
use super::layout::{STATUS, Status, VERSION};
use super::scan;
use crate::keep::Error;
use crate::lock::text::escape::shown_path;

/// The name of the file in the runtime directory.
pub(super) const FILE: &str = "state";

/// Reads the state file in a runtime directory. Changes nothing.
///
/// # Errors
///
/// [`Error::Version`] if its version is not supported; [`Error::File`] if it cannot be read.
pub fn read(directory: &Path) -> Result<Contents, Error> {
    let path = directory.join(FILE);
    let failed = Error::file(&path, "read");
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(mut file) => file.read_to_end(&mut bytes).map_err(&failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Contents { missing: true, ..Contents::default() });
        }
        Err(error) => return Err(failed(error)),
    };
    let version = version_of(&bytes);
    if let Some(found) = version
        && !(OLDEST..=VERSION).contains(&found)
    {
        let (file, oldest, known) = (shown_path(&path), OLDEST, VERSION);
        return Err(Error::Version { file, found, oldest, known });
    }
    let read = if is_json(&bytes, version) { json::read(&bytes) } else { scan::read(&bytes) };
    Ok(Contents { version, ..read.map_err(&failed)? })
}

/// Returns the version in the first line; `None` if it is damaged. In every version, the second
/// word of that line is the version, and further words follow.
fn version_of(bytes: &[u8]) -> Option<u64> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let words: Vec<&str> = str::from_utf8(line).ok()?.split_whitespace().collect();
    let [MAGIC, version, _, ..] = words[..] else { return None };
    let is_number = version.bytes().all(|byte| byte.is_ascii_digit());
    version.parse().ok().filter(|_| is_number)
}

/// Returns whether a file consists of lines of JSON. The version may be damaged, and then what the
/// file contains decides.
fn is_json(bytes: &[u8], version: Option<u64>) -> bool {
    if STATUS.into_iter().any(|at| bytes.get(at..).and_then(Status::read).is_some()) {
        return false;
    }
    let begins =
        |part: &[u8]| [b" {\"c", b" {\"o", b" {\"a", b" {\"l"].iter().any(|it| *it == part);
    match version {
        Some(OLDEST..=NEWEST) => true,
        // Each record of those versions begins like this.
        _ => !scan::has_entries(bytes) && bytes.windows(4).any(begins),
    }
}

/// Copies a damaged state file to `state.damaged`, for an administrator. Returns the path of the
/// copy.
///
/// # Errors
///
/// [`Error::File`].
pub fn copy_aside(directory: &Path) -> Result<PathBuf, Error> {
    let path = directory.join(FILE);
    let aside = directory.join("state.damaged");
    fs::copy(&path, &aside).map_err(|cause| {
        // A partial copy would take space that new entries need.
        let _ = fs::remove_file(&aside);
        Error::file(&path, "copy")(cause)
    })?;
    Ok(aside)
}

//! The encoding of holder records, which name the holder of a lock to other hosts.
//!
//! The kernel does not report holders on another host. So a service that locks a file in a
//! lockspace writes the VM that holds it into an attribute of that file (`user.vmlockd.holder.<host
//! id>.<word>`): `1 <checksum> <JSON>`, at most [`LONGEST`] bytes. Other hosts write there, too,
//! and so can any program with write access to the file. So a record is a hint: it is displayed
//! once it was found to be complete and harmless, and decides nothing.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::lock::model::host::{hex, is_id, is_name};
use crate::lock::model::mode::Mode;
use crate::lock::model::owner::check_name;
use crate::lock::text::escape::{is_printable, shown};
use crate::lock::text::why::check_why;

/// The longest value of an attribute.
pub const LONGEST: usize = 1024;
/// The maximum number of recorded holders of one host; hundreds may share a disk.
const MOST: usize = 4;
/// The prefix of the value: the version of the format.
const VERSION: &str = "1 ";
/// The number of digits of a checksum.
const DIGITS: usize = 16;
/// The longest path that is recorded in full.
const PATH: usize = 255;
/// The longest name of a user.
const USER: usize = 64;

/// One recorded holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The id of its host.
    pub host_id: String,
    /// The name of its host.
    pub host: String,
    /// The record of the holder.
    pub entry: Entry,
}

/// The record of one holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Entry {
    /// The number of its lock, on its host.
    pub lock: u64,
    /// The name of the VM.
    pub name: String,
    /// The UUID of the VM.
    pub uuid: Uuid,
    /// The process of the VM; 0 if it is unknown.
    pub pid: u32,
    /// The user that runs it.
    pub user: String,
    /// The mode of the lock.
    pub mode: Mode,
    /// When the lock was acquired, in microseconds since 1970, by the clock of its host.
    pub since: u64,
    /// The name by which the disk was locked, escaped, and truncated if it is very long.
    pub path: String,
    /// The owner's reason for the lock; empty if it has none, or if there was no room for it.
    pub why: String,
}

impl Entry {
    /// Whether both are records of one lock of one host.
    #[must_use]
    pub fn is_of_same_lock(&self, other: &Self) -> bool {
        self.lock == other.lock
    }

    /// Adds it to the records of its host, in place of the previous record of its lock, also of
    /// that while it belonged to another owner (`before`).
    pub(in crate::lock) fn join(&self, holders: &mut Vec<Self>, before: Option<&Self>) {
        let same = [Some(self), before];
        holders.retain(|other| !same.into_iter().flatten().any(|one| one.is_of_same_lock(other)));
        holders.push(self.clone());
    }
}

/// Returns a path in its recorded form.
#[must_use]
pub fn path_to_record(path: &str) -> String {
    let path = shown(path);
    if path.len() <= PATH {
        return path;
    }
    // The end of a path identifies it better than the beginning.
    let mut start = path.len() - PATH;
    while !path.is_char_boundary(start) {
        start += 1;
    }
    format!("…{}", &path[start..])
}

/// The JSON form of an entry.
#[derive(Clone, Serialize, Deserialize)]
struct Raw {
    lock: u64,
    vm: String,
    uuid: String,
    pid: u32,
    user: String,
    mode: String,
    since: u64,
    path: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    why: String,
}

impl From<Entry> for Raw {
    fn from(entry: Entry) -> Self {
        let Entry { lock, name: vm, uuid, pid, user, mode, since, path, why } = entry;
        let (uuid, mode) = (uuid.to_string(), mode.as_str().to_owned());
        Self { lock, vm, uuid, pid, user, mode, since, path, why }
    }
}

impl TryFrom<Raw> for Entry {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        let Raw { lock, vm: name, uuid, pid, user, mode, since, path, why } = raw;
        check_name(&name).map_err(|_| "odd name")?;
        let uuid = Uuid::try_parse(&uuid).map_err(|_| "odd UUID")?;
        let mode = mode.parse().map_err(|_| "odd mode")?;
        if user.len() > USER || !user.chars().chain(path.chars()).all(is_printable) {
            return Err("odd user or path");
        }
        check_why(&why).map_err(|_| "odd reason")?;
        Ok(Self { lock, name, uuid, pid, user, mode, since, path, why })
    }
}

/// The value of an attribute: the records of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The name of the host.
    pub host: String,
    /// Its holders, the newest one last.
    pub holders: Vec<Entry>,
}

impl Value {
    /// Encodes the attribute value of the host with this id. If it would be too long, the reasons
    /// are left out first, and then the oldest holders.
    #[must_use]
    pub fn write(&self, host_id: &str) -> Vec<u8> {
        let mut value = self.clone();
        let surplus = value.holders.len().saturating_sub(MOST);
        value.holders.drain(..surplus);
        loop {
            // Serialization cannot fail for these types.
            let text = serde_json::to_string(&value).unwrap_or_default();
            let bytes = format!("{VERSION}{} {text}", checksum(host_id, &text)).into_bytes();
            if bytes.len() <= LONGEST {
                return bytes;
            }
            if let Some(entry) = value.holders.iter_mut().find(|entry| !entry.why.is_empty()) {
                entry.why.clear();
                continue;
            }
            match value.holders.as_mut_slice() {
                [] => return bytes,
                [only] if only.path.is_empty() => only.user.clear(),
                [only] => only.path.clear(),
                _ => drop(value.holders.remove(0)),
            }
        }
    }

    /// Decodes a value; returns `None` if it has another version, is damaged, or contains unsafe
    /// text.
    #[must_use]
    pub fn read(host_id: &str, bytes: &[u8]) -> Option<Self> {
        if bytes.len() > LONGEST || !is_id(host_id) {
            return None;
        }
        let text = str::from_utf8(bytes).ok()?.strip_prefix(VERSION)?;
        let (sum, text) = text.split_at_checked(DIGITS)?;
        let text = text.strip_prefix(' ')?;
        if sum != checksum(host_id, text) {
            return None;
        }
        let value: Self = serde_json::from_str(text).ok()?;
        (is_name(&value.host) && value.holders.len() <= MOST).then_some(value)
    }

    /// Returns each of its holders, with the id and the name of the host.
    pub(in crate::lock) fn recorded(self, host_id: String) -> impl Iterator<Item = Recorded> {
        let Self { host, holders } = self;
        let recorded =
            move |entry| Recorded { host_id: host_id.clone(), host: host.clone(), entry };
        holders.into_iter().map(recorded)
    }
}

/// Returns the beginning of a SHA-256, in hex. It detects damage and values that were copied from
/// another host; it does not protect against an attacker.
fn checksum(host_id: &str, text: &str) -> String {
    let digest = Sha256::new().chain_update(host_id).chain_update([0]).chain_update(text);
    hex(&digest.finalize()[..DIGITS / 2])
}

#[cfg(test)]
pub(in crate::lock) mod store;
#[cfg(test)]
mod tests;

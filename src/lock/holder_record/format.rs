//! What a holder leaves beside its lock, for other hosts to read: who it is.
//!
//! The kernel names nobody on another host. So whoever locks a file in a lockspace writes into an
//! attribute of that file (`user.vmlockd.holder.<host id>.<word>`) which machine holds it:
//! `1 <checksum> <JSON>`, at most [`LONGEST`] bytes. Other hosts write there, too, and anybody who
//! can write the file; so what is read is a hint that is shown, once it was found to be whole and
//! harmless, and decides nothing.

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
/// How many holders of one host are recorded; a disk may be shared by hundreds.
const MOST: usize = 4;
/// How the value begins: the version of what follows.
const VERSION: &str = "1 ";
/// How many digits a checksum has.
const DIGITS: usize = 16;
/// The longest path that is recorded whole.
const PATH: usize = 255;
/// The longest name of a user.
const USER: usize = 64;

/// One holder on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The id of its host.
    pub host_id: String,
    /// The name of its host.
    pub host: String,
    /// What is told of the holder.
    pub entry: Entry,
}

/// What is told of one holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Entry {
    /// The number of its lock, on its host.
    pub lock: u64,
    /// The machine's name.
    pub name: String,
    /// The machine.
    pub uuid: Uuid,
    /// Its process; 0 where none is known.
    pub pid: u32,
    /// The user who runs it.
    pub user: String,
    /// How it holds.
    pub mode: Mode,
    /// Since when, in microseconds since 1970, by the clock of its host.
    pub since: u64,
    /// The name by which it holds the disk, escaped, and cut where it is very long.
    pub path: String,
    /// What its owner says that the lock is for; empty where it does not say, or where there was no
    /// room for it.
    pub why: String,
}

impl Entry {
    /// Whether both are about one lock of one host, whatever changed of it since.
    #[must_use]
    pub fn is_of_same_lock(&self, other: &Self) -> bool {
        self.lock == other.lock
    }

    /// Enters it among others of its host, in place of what was recorded of its lock, also while that
    /// was another owner's (`before`).
    pub(in crate::lock) fn join(&self, holders: &mut Vec<Self>, before: Option<&Self>) {
        let same = [Some(self), before];
        holders.retain(|other| !same.into_iter().flatten().any(|one| one.is_of_same_lock(other)));
        holders.push(self.clone());
    }
}

/// A path as it is recorded.
#[must_use]
pub fn path_to_record(path: &str) -> String {
    let path = shown(path);
    if path.len() <= PATH {
        return path;
    }
    // Its end says more than its beginning.
    let mut start = path.len() - PATH;
    while !path.is_char_boundary(start) {
        start += 1;
    }
    format!("…{}", &path[start..])
}

/// An entry as it is written.
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

/// What one host has recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The name of the host.
    pub host: String,
    /// Its holders, the last to come at the end.
    pub holders: Vec<Entry>,
}

impl Value {
    /// The bytes of the attribute of the host with this id. Where it would be too long, what locks are
    /// for is left out, and then the holders that came first.
    #[must_use]
    pub fn write(&self, host_id: &str) -> Vec<u8> {
        let mut value = self.clone();
        let surplus = value.holders.len().saturating_sub(MOST);
        value.holders.drain(..surplus);
        loop {
            // Nothing in it can't be written.
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

    /// Reads what somebody wrote; `None` for what is of another version, damaged, or no harmless
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

    /// Each of its holders, of the host with this id.
    pub(in crate::lock) fn recorded(self, host_id: String) -> impl Iterator<Item = Recorded> {
        let Self { host, holders } = self;
        let recorded =
            move |entry| Recorded { host_id: host_id.clone(), host: host.clone(), entry };
        holders.into_iter().map(recorded)
    }
}

/// The beginning of a SHA-256, in hex: against damage, and against what was copied from another
/// host; not against an enemy.
fn checksum(host_id: &str, text: &str) -> String {
    let digest = Sha256::new().chain_update(host_id).chain_update([0]).chain_update(text);
    hex(&digest.finalize()[..DIGITS / 2])
}

#[cfg(test)]
pub(in crate::lock) mod place;
#[cfg(test)]
mod tests;

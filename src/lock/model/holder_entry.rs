//! The record of one holder, as a holder record contains it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::mode::Mode;
use super::owner::check_name;
use crate::lock::text::escape::{is_printable, shown};
use crate::lock::text::why::check_why;

/// The longest path that is recorded in full.
pub(in crate::lock) const PATH_MAX: usize = 255;
/// The longest name of a user.
const USER_MAX: usize = 64;

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
#[serde(try_from = "EntryJson", into = "EntryJson")]
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
    pub(in crate::lock) fn insert_into(&self, holders: &mut Vec<Self>, before: Option<&Self>) {
        let same = [Some(self), before];
        holders.retain(|other| !same.into_iter().flatten().any(|one| one.is_of_same_lock(other)));
        holders.push(self.clone());
    }
}

/// Returns a path in its recorded form.
#[must_use]
pub fn path_to_record(path: &str) -> String {
    let path = shown(path);
    if path.len() <= PATH_MAX {
        return path;
    }
    // The end of a path identifies it better than the beginning.
    let mut start = path.len() - PATH_MAX;
    while !path.is_char_boundary(start) {
        start += 1;
    }
    format!("…{}", &path[start..])
}

/// The JSON form of an entry.
#[derive(Clone, Serialize, Deserialize)]
struct EntryJson {
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

impl From<Entry> for EntryJson {
    fn from(entry: Entry) -> Self {
        let Entry { lock, name: vm, uuid, pid, user, mode, since, path, why } = entry;
        let (uuid, mode) = (uuid.to_string(), mode.as_str().to_owned());
        Self { lock, vm, uuid, pid, user, mode, since, path, why }
    }
}

impl TryFrom<EntryJson> for Entry {
    type Error = &'static str;

    fn try_from(raw: EntryJson) -> Result<Self, Self::Error> {
        let EntryJson { lock, vm: name, uuid, pid, user, mode, since, path, why } = raw;
        check_name(&name).map_err(|_| "odd name")?;
        let uuid = Uuid::try_parse(&uuid).map_err(|_| "odd UUID")?;
        let mode = mode.parse().map_err(|_| "odd mode")?;
        if user.len() > USER_MAX || !user.chars().chain(path.chars()).all(is_printable) {
            return Err("odd user or path");
        }
        check_why(&why).map_err(|_| "odd reason")?;
        Ok(Self { lock, name, uuid, pid, user, mode, since, path, why })
    }
}

//! The encoding of holder records, which name the holder of a lock to other hosts.
//!
//! The kernel does not report holders on another host. So a service that locks a file in a
//! lockspace writes the VM that holds it into an attribute of that file (`user.vmlockd.holder.<host
//! id>.<word>`): `1 <checksum> <JSON>`, at most [`VALUE_MAX`] bytes. Other hosts write there, too,
//! and so can any program with write access to the file. So a record is a hint: it is displayed
//! once it was found to be complete and harmless, and decides nothing.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::lock::model::holder_entry::{Entry, Recorded};
use crate::lock::model::host::{hex, is_id, is_name};

/// The longest value of an attribute.
pub const VALUE_MAX: usize = 1024;
/// The maximum number of recorded holders of one host; hundreds may share a disk.
const HOLDERS_MAX: usize = 4;
/// The prefix of the value: the version of the format.
const VERSION: &str = "1 ";
/// The number of digits of a checksum.
const DIGITS: usize = 16;
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
        let surplus = value.holders.len().saturating_sub(HOLDERS_MAX);
        value.holders.drain(..surplus);
        loop {
            // Serialization cannot fail for these types.
            let text = serde_json::to_string(&value).unwrap_or_default();
            let bytes = format!("{VERSION}{} {text}", checksum(host_id, &text)).into_bytes();
            if bytes.len() <= VALUE_MAX {
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
        if bytes.len() > VALUE_MAX || !is_id(host_id) {
            return None;
        }
        let text = str::from_utf8(bytes).ok()?.strip_prefix(VERSION)?;
        let (sum, text) = text.split_at_checked(DIGITS)?;
        let text = text.strip_prefix(' ')?;
        if sum != checksum(host_id, text) {
            return None;
        }
        let value: Self = serde_json::from_str(text).ok()?;
        (is_name(&value.host) && value.holders.len() <= HOLDERS_MAX).then_some(value)
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

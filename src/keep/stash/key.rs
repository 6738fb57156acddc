//! Keys of stashed descriptors.
//!
//! A message in the stash carries the key of each of its descriptors. The state file says more
//! about a descriptor and takes precedence. Where its record is damaged, the key is all that is
//! known.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use uuid::Uuid;

use crate::lock::OwnerId;
use crate::lock::model::owner::AnchorId;

/// The key of a stashed descriptor.
///
/// Two keys are equal if their parts are, whatever their owners: no number is assigned twice, and a
/// descriptor that is recovered for an unknown owner changes its owner.
#[derive(Debug, Clone, Copy)]
pub struct StashKey {
    /// The owner at the time when the descriptor was stashed.
    pub owner: OwnerId,
    /// Which of the owner's descriptors it is.
    pub part: KeyPart,
}

impl PartialEq for StashKey {
    fn eq(&self, other: &Self) -> bool {
        self.part == other.part
    }
}

impl Eq for StashKey {}

impl Hash for StashKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.part.hash(state);
    }
}

impl Ord for StashKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.part.cmp(&other.part)
    }
}

impl PartialOrd for StashKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Which of an owner's descriptors a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyPart {
    /// A locked byte: the number of the lock, and the index of the byte in the lock.
    Byte(u64, u8),
    /// An anchor: the service's end of a lifeline, a pidfd, or a connection.
    Anchor(AnchorId),
}

impl StashKey {
    /// The length of an encoded key in bytes.
    pub(super) const LENGTH: usize = 34;

    /// Appends the encoded key. Numbers are in native byte order, since an encoded key never leaves
    /// the memory of the host.
    pub(super) fn encode(self, to: &mut Vec<u8>) {
        let (kind, byte, number) = match self.part {
            KeyPart::Byte(number, byte) => (b'b', byte, number),
            KeyPart::Anchor(number) => (b'a', 0, number),
        };
        to.extend([kind, byte]);
        to.extend(number.to_ne_bytes());
        to.extend(self.owner.uid.to_ne_bytes());
        to.extend(self.owner.process.to_ne_bytes());
        to.extend(self.owner.uuid.as_bytes());
    }

    /// Decodes a key; returns `None` if `from` is not an encoded key.
    pub(super) fn decode(from: &[u8]) -> Option<Self> {
        let (head, rest) = from.split_at_checked(2)?;
        let (number, rest) = rest.split_first_chunk()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (process, uuid) = rest.split_first_chunk()?;
        let number = u64::from_ne_bytes(*number);
        let part = match *head {
            [b'b', byte] => KeyPart::Byte(number, byte),
            [b'a', 0] => KeyPart::Anchor(number),
            _ => return None,
        };
        let uuid = Uuid::from_slice(uuid).ok()?;
        let (uid, process) = (u32::from_ne_bytes(*uid), u32::from_ne_bytes(*process));
        Some(Self { owner: OwnerId { uid, uuid, process }, part })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoded_key_equals_the_encoded_one() {
        let owner = OwnerId { process: 9, ..OwnerId::new(1000, Uuid::from_u128(7)) };
        for part in [KeyPart::Byte(u64::MAX, 1), KeyPart::Anchor(3)] {
            let key = StashKey { owner, part };
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            assert_eq!(bytes.len(), StashKey::LENGTH);
            let read = StashKey::decode(&bytes).unwrap();
            assert_eq!((read, read.owner), (key, owner));
            let other = OwnerId { uid: 0, ..owner };
            assert_eq!(read, StashKey { owner: other, part });
            assert_eq!(StashKey::decode(&bytes[1..]), None);
        }
        assert_eq!(StashKey::decode(b""), None);
    }
}

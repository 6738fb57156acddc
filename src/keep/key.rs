//! What a parked descriptor is, told by the message that carries it.
//!
//! The records tell more, and are what counts; but a record may be damaged, and then this is all
//! that is known of a descriptor.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use uuid::Uuid;

use crate::lock::OwnerId;
use crate::lock::model::owner::AnchorId;

/// Which descriptor. Two keys are the same whose parts are: no number is given twice, and what is
/// recovered of an owner of which nothing is known becomes another's.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Whose it was when it was parked.
    pub owner: OwnerId,
    /// What of his.
    pub part: Part,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.part == other.part
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.part.hash(state);
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.part.cmp(&other.part)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What of an owner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// A locked byte: the number of its lock, and which of the lock's bytes it is.
    Byte(u64, u8),
    /// What keeps the owner alive: our end of a lifeline, or a pidfd.
    Anchor(AnchorId),
}

impl Key {
    /// How many bytes a key is written in.
    pub(super) const LENGTH: usize = 34;

    /// The key as bytes, native order: nothing but this host's memory ever holds them.
    pub(super) fn write(self, to: &mut Vec<u8>) {
        let (kind, byte, number) = match self.part {
            Part::Byte(number, byte) => (b'b', byte, number),
            Part::Anchor(number) => (b'a', 0, number),
        };
        to.extend([kind, byte]);
        to.extend(number.to_ne_bytes());
        to.extend(self.owner.uid.to_ne_bytes());
        to.extend(self.owner.process.to_ne_bytes());
        to.extend(self.owner.uuid.as_bytes());
    }

    /// The key that was written; `None` for anything else.
    pub(super) fn read(from: &[u8]) -> Option<Self> {
        let (head, rest) = from.split_at_checked(2)?;
        let (number, rest) = rest.split_first_chunk()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (process, uuid) = rest.split_first_chunk()?;
        let number = u64::from_ne_bytes(*number);
        let part = match *head {
            [b'b', byte] => Part::Byte(number, byte),
            [b'a', 0] => Part::Anchor(number),
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
    fn there_and_back() {
        let owner = OwnerId { process: 9, ..OwnerId::new(1000, Uuid::from_u128(7)) };
        for part in [Part::Byte(u64::MAX, 1), Part::Anchor(3)] {
            let key = Key { owner, part };
            let mut bytes = Vec::new();
            key.write(&mut bytes);
            assert_eq!(bytes.len(), Key::LENGTH);
            let read = Key::read(&bytes).unwrap();
            assert_eq!((read, read.owner), (key, owner));
            let other = OwnerId { uid: 0, ..owner };
            assert_eq!(read, Key { owner: other, part });
            assert_eq!(Key::read(&bytes[1..]), None);
        }
        assert_eq!(Key::read(b""), None);
    }
}

//! The fields of a record in version 8 of the state file.
//!
//! ```text
//! payload  = field* zero*
//! field    = tag length checksum value
//! tag      = 1 byte, never zero     ; see the constants
//! length   = 4 bytes                ; of the value; all numbers are little-endian
//! checksum = 4 bytes                ; CRC-32 of tag, length and value, which begins at the salt
//! ```
//!
//! The checksum of a field proves the field if the rest of its entry is damaged. The salt is a
//! random number of the file: a client chooses the names of its disks, and cannot choose one that
//! contains the encoding of another field.
//!
//! The fields of a record are in the order of their tags. No tag has two meanings, so a field tells
//! of which kind its record is.

use crc32fast::Hasher;
use uuid::Uuid;

/// The number and the owner of a record: number (8 bytes), uid (4), process (4), UUID (16).
pub(super) const ID: u8 = 0x01;
/// The time and the flags of a lock: time (8), flags (1).
pub(super) const LOCK: u8 = 0x10;
/// The resource, as the client named it.
pub(super) const RESOURCE: u8 = 0x11;
/// The canonical path of a disk.
pub(super) const CANONICAL: u8 = 0x12;
/// The path of a disk.
pub(super) const PATH: u8 = 0x13;
/// The identity of a resource.
pub(super) const IDENTITY: u8 = 0x14;
/// A part of a lower file or device that the disk occupies; may be repeated.
pub(super) const OCCUPIES: u8 = 0x15;
/// The path of a copy in an upper layer; may be repeated.
pub(super) const COPY: u8 = 0x16;
/// The name of the lockspace of a lock.
pub(super) const LOCKSPACE: u8 = 0x17;
/// The path of a lock file; may be repeated.
pub(super) const LOCK_FILE: u8 = 0x18;
/// The former owner and number of a transferred lock: as [`ID`], and whether it is suspended (1).
pub(super) const FORMER: u8 = 0x19;
/// The numbers of the suspended locks that are resumed with a transferred one (8 each).
pub(super) const RESUMES: u8 = 0x1a;
/// The owner and number under which descriptors are stashed: as [`FORMER`].
pub(super) const STASHED_AS: u8 = 0x1b;
/// The time and the flags of an owner: time (8), flags (1).
pub(super) const OWNER: u8 = 0x20;
/// The name of an owner.
pub(super) const NAME: u8 = 0x21;
/// The frontend of an owner.
pub(super) const FRONTEND: u8 = 0x22;
/// The loss action of an owner.
pub(super) const ON_LOST: u8 = 0x23;
/// The purpose of an owner's locks.
pub(super) const WHY: u8 = 0x24;
/// An anchor: PID (4), flags (1), inode (8), start time (8).
pub(super) const ANCHOR: u8 = 0x30;
/// The kind of an anchor.
pub(super) const ANCHOR_KIND: u8 = 0x31;
/// A lockspace directory: number (4), path.
pub(super) const DIRECTORY: u8 = 0x40;
/// An offer: time at which it expires (8), token.
pub(super) const OFFER: u8 = 0x50;

/// All tags, in order.
const TAGS: [u8; 22] = [
    ID,
    LOCK,
    RESOURCE,
    CANONICAL,
    PATH,
    IDENTITY,
    OCCUPIES,
    COPY,
    LOCKSPACE,
    LOCK_FILE,
    FORMER,
    RESUMES,
    STASHED_AS,
    OWNER,
    NAME,
    FRONTEND,
    ON_LOST,
    WHY,
    ANCHOR,
    ANCHOR_KIND,
    DIRECTORY,
    OFFER,
];
/// The tags that may be repeated within a record.
const REPEATED: [u8; 3] = [OCCUPIES, COPY, LOCK_FILE];
/// The length of a field without its value.
const PREFIX: usize = 9;

/// The number of zeros that separate two records in damaged bytes: fewer occur in a single one.
const ZEROS: usize = 64;

/// Returns the checksum of a field.
fn checksum(salt: u32, tag: u8, length: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new_with_initial(salt);
    let mut head = [tag, 0, 0, 0, 0];
    head[1..].copy_from_slice(&length.to_le_bytes());
    hasher.update(&head);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// The uid, the UUID and the process of an owner.
pub(super) type OwnerFields = (u32, Option<Uuid>, u32);

/// Encodes the fields of records.
pub(super) struct FieldWriter<'a> {
    pub(super) bytes: &'a mut Vec<u8>,
    pub(super) salt: u32,
}

impl FieldWriter<'_> {
    /// Appends a field whose value is the concatenation of `parts`.
    pub(super) fn put(&mut self, tag: u8, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        // No request is this long: a message of D-Bus has at most 128 MiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.bytes.push(tag);
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(checksum(self.salt, tag, length, parts).to_le_bytes());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }

    /// Appends a number with an owner.
    pub(super) fn put_owner(
        &mut self,
        tag: u8,
        number: u64,
        (uid, uuid, process): OwnerFields,
        more: &[u8],
    ) {
        let uuid = uuid.unwrap_or_default();
        let (uid, process) = (uid.to_le_bytes(), process.to_le_bytes());
        self.put(tag, &[&number.to_le_bytes(), &uid, &process, uuid.as_bytes(), more]);
    }
}

/// A decoder of the value of a field.
pub(super) struct Value<'a>(pub(super) &'a [u8]);

impl<'a> Value<'a> {
    /// Takes the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    /// Takes a byte that is 0 or 1.
    pub(super) fn flag(&mut self) -> Option<bool> {
        self.byte().filter(|byte| *byte <= 1).map(|byte| byte == 1)
    }

    /// Takes a number with an owner, as [`FieldWriter::put_owner`] writes them.
    pub(super) fn owner(&mut self) -> Option<(u64, OwnerFields)> {
        let (number, uid, process) = (self.u64()?, self.u32()?, self.u32()?);
        Some((number, (uid, Some(Uuid::from_bytes(self.array()?)), process)))
    }

    /// Takes all bytes that are left, as a string.
    pub(super) fn text(self) -> Option<&'a str> {
        str::from_utf8(self.0).ok()
    }

    /// Returns `value` if all bytes were taken.
    pub(super) fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// A field of a damaged record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) tag: u8,
    pub(super) value: &'a [u8],
    /// Whether the checksum proves the field.
    pub(super) is_intact: bool,
    /// Whether the field directly follows the one before it.
    follows: bool,
}

impl<'a> Field<'a> {
    /// Reads a field at the beginning of `bytes`, whatever its checksum; returns it with its
    /// length.
    fn read(bytes: &'a [u8], salt: Option<u32>) -> Option<(Self, usize)> {
        let mut prefix = Value(bytes);
        let (tag, length, sum) = (prefix.byte()?, prefix.u32()?, prefix.u32()?);
        let value = prefix.0.get(..usize::try_from(length).ok()?)?;
        TAGS.contains(&tag).then(|| {
            let is_intact = salt.is_some_and(|salt| checksum(salt, tag, length, &[value]) == sum);
            (Self { tag, value, is_intact, follows: true }, PREFIX + value.len())
        })
    }

    /// Returns whether `next` may follow this field in its record.
    fn precedes(&self, next: Self) -> bool {
        self.tag < next.tag || (self.tag == next.tag && REPEATED.contains(&next.tag))
    }
}

/// Returns whether a field that is not intact is one all the same, and not a part of another. `last`
/// is the field before it in its record, and `next` what follows it.
fn is_plausible(
    field: Field<'_>,
    last: Option<&Field<'_>>,
    next: &[u8],
    salt: Option<u32>,
) -> bool {
    let following = Field::read(next, salt).map(|(following, _)| following);
    let Some(following) = following else { return next.iter().all(|byte| *byte == 0) };
    // Without a salt, no field can be proven.
    (following.is_intact || salt.is_none())
        && (field.precedes(following) || following.tag == ID)
        && (last.is_none_or(|last| last.precedes(field)) || (salt.is_none() && field.tag == ID))
}

/// The fields of a record.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields<'a>(Vec<Field<'a>>);

impl<'a> Fields<'a> {
    /// Reads the payload of an entry whose own checksum is right, or does not matter; returns
    /// `None` if it is not a sequence of fields.
    pub(super) fn read(mut payload: &'a [u8]) -> Option<Self> {
        let mut fields = Vec::with_capacity(12);
        while payload.first().is_some_and(|tag| *tag != 0) {
            let (field, length) = Field::read(payload, None)?;
            payload = &payload[length..];
            fields.push(field);
        }
        payload.iter().all(|byte| *byte == 0).then_some(Self(fields))
    }

    /// Reads what is left of the fields of one or more records in damaged bytes. A field that is
    /// not intact counts only in its place among the others, and where an intact field or the end of
    /// the payload follows it directly, since its length may be damaged. The first record may have
    /// no field.
    pub(super) fn recover(bytes: &'a [u8], salt: Option<u32>) -> Vec<Self> {
        let (mut records, mut at, mut follows) = (vec![Self::default()], 0, true);
        let mut zeros = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let field = Field::read(rest, salt).filter(|(field, length)| {
                let current = records.last().and_then(|fields: &Self| fields.0.last());
                field.is_intact || is_plausible(*field, current, &rest[*length..], salt)
            });
            let Some((field, length)) = field else {
                (at, follows) = (at + 1, false);
                zeros = if rest[0] == 0 { zeros + 1 } else { 0 };
                if zeros == ZEROS && records.last().is_some_and(|fields| !fields.0.is_empty()) {
                    records.push(Self::default());
                }
                continue;
            };
            let field = Field { follows, ..field };
            (at, follows, zeros) = (at + length, true, 0);
            match records.last_mut() {
                Some(record) if record.0.last().is_none_or(|last| last.precedes(field)) => {
                    record.0.push(field);
                }
                // The tags of a record ascend: this is the next record.
                _ => records.push(Self(vec![field])),
            }
        }
        records
    }

    /// Returns the values of all fields with a tag.
    pub(super) fn all(&self, tag: u8) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |field| field.tag == tag).map(|field| field.value)
    }

    /// Returns the value of the first field with a tag.
    pub(super) fn one(&self, tag: u8) -> Option<&'a [u8]> {
        self.all(tag).next()
    }

    /// Returns the value of the first field with a tag, as a string.
    pub(super) fn text(&self, tag: u8) -> Option<&'a str> {
        Value(self.one(tag)?).text()
    }

    /// Returns the fields that their checksums prove.
    pub(super) fn intact(&self) -> Self {
        let mut follows = true;
        let mut fields = Vec::with_capacity(self.0.len());
        for field in &self.0 {
            if field.is_intact {
                fields.push(Field { follows: follows && field.follows, ..*field });
            }
            follows = field.is_intact;
        }
        Self(fields)
    }

    /// Returns whether there are fields with these two tags, and nothing between them is damaged.
    pub(super) fn is_whole(&self, first: u8, last: u8) -> bool {
        let at = |tag| self.0.iter().position(|field| field.tag == tag);
        let (Some(first), Some(last)) = (at(first), at(last)) else { return false };
        self.0
            .get(first + 1..=last)
            .is_some_and(|fields| fields.iter().all(|field| field.is_intact && field.follows))
    }

    /// Returns whether there is a field whose tag is in a range.
    pub(super) fn has(&self, tags: std::ops::RangeInclusive<u8>) -> bool {
        self.0.iter().any(|field| tags.contains(&field.tag))
    }
}

//! Holder records in the lock file itself, for file systems without extended attributes: NFS before
//! version 4.2.
//!
//! Behind the locked byte, each host has a slot, which is chosen by its id. If two hosts share a
//! slot, it contains the record of the last writer. A record is a hint, as in an attribute
//! ([`crate::lock::holder_record::xattr`]), and its checksum detects a torn or foreign one. This is
//! used only for files that the service creates and removes itself: a file that another program has
//! locked may have content.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::lock::holder_record::format::{VALUE_MAX, Value};
use crate::lock::holder_record::xattr::WriterMutex;
use crate::lock::model::holder_entry::{Entry, Recorded};
use crate::lock::model::host::{Host, is_id};
use crate::lock::model::mode::Mode;

/// The offset of the first slot. Byte 0 is locked, so some servers refuse to read it.
const FIRST_SLOT: usize = 1024;
/// The number of slots.
const SLOTS: u64 = 64;
/// The end of the last slot.
const END: u64 = offset_of(SLOTS);
/// The length of a slot: a word, a host's id, and the value.
const LENGTH: usize = 2048;
/// The word at the beginning of a slot; the host's id and a newline follow.
const MAGIC: &str = "vmlockd-holder ";

/// Writes the record of a holder: beside the others of this host, or in place of all records if it
/// holds the lock exclusively. `before` is the record of the lock while it belonged to another
/// owner.
///
/// # Errors
///
/// If the file has other content, and errors of the file system.
pub(in crate::lock) fn record(
    file: &File,
    host: &Host,
    entry: &Entry,
    before: Option<&Entry>,
) -> io::Result<()> {
    let mutex = WriterMutex::of(file);
    let _guard = mutex.lock();
    if !is_ours(file)? {
        return Err(io::Error::other("there is something else in the lock file"));
    }
    let mut holders = if entry.mode == Mode::Exclusive {
        // These are records of holders that hold nothing.
        file.set_len(0)?;
        Vec::new()
    } else {
        entries_of_host(file, host)
    };
    entry.insert_into(&mut holders, before);
    write(file, host, holders)
}

/// Removes the record of a holder.
///
/// # Errors
///
/// Errors of the file system.
pub(in crate::lock) fn erase(file: &File, host: &Host, entry: &Entry) -> io::Result<()> {
    let mutex = WriterMutex::of(file);
    let _guard = mutex.lock();
    if file.metadata()?.len() == 0 || !is_ours(file)? {
        return Ok(());
    }
    let mut holders = entries_of_host(file, host);
    holders.retain(|other| !other.is_of_same_lock(entry));
    if holders.is_empty() {
        file.write_all_at(&[0; LENGTH], slot_of(host.id()))?;
        return file.sync_data();
    }
    write(file, host, holders)
}

/// Returns all readable records of holders.
pub(in crate::lock) fn read(file: &File) -> Vec<Recorded> {
    if file.metadata().map_or(0, |metadata| metadata.len()) <= offset_of(0) {
        return Vec::new();
    }
    let slots = (0..SLOTS).filter_map(|slot| read_slot(file, offset_of(slot)));
    slots.flat_map(|(host_id, value)| value.recorded(host_id)).collect()
}

/// Whether the file is empty, or contains slots and nothing before or after them.
fn is_ours(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(true);
    }
    let mut head = [0; FIRST_SLOT - 1];
    // Byte 0 is not read, since it is locked.
    let read = file.read_at(&mut head, 1)?;
    Ok(length <= END && head.iter().take(read).all(|byte| *byte == 0))
}

fn write(file: &File, host: &Host, holders: Vec<Entry>) -> io::Result<()> {
    let value = Value { host: host.name(), holders }.write(host.id());
    let mut slot = format!("{MAGIC}{}\n", host.id()).into_bytes();
    slot.extend(value);
    slot.resize(LENGTH, 0);
    file.write_all_at(&slot, slot_of(host.id()))?;
    // A host may otherwise keep its writes in its own cache for a while.
    file.sync_data()
}

fn entries_of_host(file: &File, host: &Host) -> Vec<Entry> {
    let own = read_slot(file, slot_of(host.id())).filter(|(id, _)| id == host.id());
    own.map(|(_, value)| value.holders).unwrap_or_default()
}

fn read_slot(file: &File, offset: u64) -> Option<(String, Value)> {
    let mut slot = [0; LENGTH];
    let read = file.read_at(&mut slot, offset).ok()?;
    let text = slot.get(..read)?;
    let text = text.split(|byte| *byte == 0).next()?;
    let (id, value) = str::from_utf8(text).ok()?.strip_prefix(MAGIC)?.split_once('\n')?;
    let fits = is_id(id) && value.len() <= VALUE_MAX;
    Some((id.to_owned(), Value::read(id, value.as_bytes()).filter(|_| fits)?))
}

/// Returns the offset of the slot of a host.
fn slot_of(id: &str) -> u64 {
    // FNV-1a: the same on all hosts and in all versions.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    offset_of(hash % SLOTS)
}

/// Returns the offset of a slot.
const fn offset_of(slot: u64) -> u64 {
    // Both are small.
    FIRST_SLOT as u64 + slot * LENGTH as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::holder_record::format::store::{RecordStore, entry, host, recorded_names};

    #[test]
    fn shared_holders_are_recorded_together_and_an_exclusive_one_alone() {
        let file = tempfile::tempfile().unwrap();
        assert_ne!(slot_of("one"), slot_of("two"));
        let slots = RecordStore { file: &file, record, erase, read };
        slots.check_shared_holders();
        slots.check_exclusive_holder();
    }

    #[test]
    fn foreign_content_is_not_changed() {
        let one = host("one");
        for content in [&b"QFI\xfb a disk"[..], &[7; 9000], b"\0x"] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(content, 0).unwrap();
            record(&file, &one, &entry(1, Mode::Exclusive), None).unwrap_err();
            erase(&file, &one, &entry(1, Mode::Exclusive)).unwrap();
            let mut kept = vec![0; content.len()];
            file.read_exact_at(&mut kept, 0).unwrap();
            assert_eq!(
                (kept, file.metadata().unwrap().len()),
                (content.to_vec(), content.len() as u64)
            );
            assert!(recorded_names(read(&file)).is_empty());
        }
        // Foreign text in a slot is no record, and does not prevent one.
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"vmlockd-holder one\n1 0123456789abcdef {}", slot_of("one")).unwrap();
        assert!(recorded_names(read(&file)).is_empty());
        record(&file, &one, &entry(1, Mode::Shared), None).unwrap();
        assert_eq!(recorded_names(read(&file)), ["one web1"]);
    }
}

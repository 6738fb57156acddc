//! Extended attributes of a lock file in which hosts record their holders.
//!
//! A host never waits for the writes of another host. Within this host, writers of one file are
//! serialized by a mutex, since the holders that share the file share the attribute. The size of
//! the file does not change (it is 0), unless its file system has no attributes
//! ([`crate::lock::holder_record::in_file`]).
//!
//! On each write, a host uses a name that was never used before, and removes the old one. Shared
//! file systems may cache for half a minute the value of a name, or that a name does not exist
//! (MooseFS does both), but they report the present list of names.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat};
use rustix::io::Errno;
use uuid::Uuid;

use crate::lock::holder_record::format::{VALUE_MAX, Value};
use crate::lock::model::holder_entry::{Entry, Recorded};
use crate::lock::model::host::{Host, is_id};
use crate::lock::model::mode::Mode;
use crate::sync;

/// The prefix of their names; the host's id follows, and after a dot a word that is never reused.
const PREFIX: &str = "user.vmlockd.holder.";
/// The longest list of names that the kernel returns.
const LIST_MAX: usize = 64 * 1024;
/// The usual maximum length of the list.
const LIST_USUAL: usize = 1024;
/// The maximum number of records that are read. No disk is shared by more hosts, and a program that
/// can write the file could leave any number.
const RECORDS: usize = 256;
/// The maximum number of records that are removed at once.
const REMOVED: usize = 1024;

/// Writes the record of a holder: beside the others of this host, or in place of all records if it
/// holds the lock exclusively. `before` is the record of the lock while it belonged to another
/// owner.
///
/// # Errors
///
/// Errors of the file system: `EOPNOTSUPP` if it has no attributes, `EROFS`, `ENOSPC`.
pub(in crate::lock) fn record(
    file: &File,
    host: &Host,
    entry: &Entry,
    before: Option<&Entry>,
) -> Result<(), Errno> {
    let mutex = WriterMutex::of(file);
    let _guard = mutex.lock();
    let names = Name::all(file, REMOVED);
    let (own, others): (Vec<Name>, Vec<Name>) =
        names.into_iter().partition(|name| name.host == host.id());
    let is_exclusive = entry.mode == Mode::Exclusive;
    let mut holders = if is_exclusive { Vec::new() } else { entries(file, &own) };
    entry.insert_into(&mut holders, before);
    write(file, host, holders)?;
    remove(file, &own)?;
    if is_exclusive {
        // These are records of holders that hold nothing. If one stays, readers ignore it as long
        // as this one exists.
        let _ = remove(file, &others);
    }
    Ok(())
}

/// Removes the record of a holder.
///
/// # Errors
///
/// Errors of the file system, except for an attribute that does not exist.
pub(in crate::lock) fn erase(file: &File, host: &Host, entry: &Entry) -> Result<(), Errno> {
    let mutex = WriterMutex::of(file);
    let _guard = mutex.lock();
    let mut own = Name::all(file, REMOVED);
    own.retain(|name| name.host == host.id());
    let mut holders = entries(file, &own);
    holders.retain(|other| !other.is_of_same_lock(entry));
    if !holders.is_empty() {
        write(file, host, holders)?;
    }
    remove(file, &own)
}

/// Writes the holders under a new name, so that a concurrent reader finds the old records or the
/// new ones.
fn write(file: &File, host: &Host, holders: Vec<Entry>) -> Result<(), Errno> {
    let value = Value { host: host.name(), holders };
    fsetxattr(file, Name::new(host).full(), &value.write(host.id()), XattrFlags::CREATE)
}

/// Removes all of these attributes. Returns the first error that is not about a missing attribute.
fn remove(file: &File, names: &[Name]) -> Result<(), Errno> {
    let each = names.iter().map(|name| match fremovexattr(file, name.full()) {
        Err(Errno::NODATA) => Ok(()),
        done => done,
    });
    // The fold evaluates all of them.
    each.fold(Ok(()), Result::and)
}

/// Returns all readable records of holders, of a bounded number of hosts.
pub(in crate::lock) fn read(file: &File) -> Vec<Recorded> {
    let names = Name::all(file, RECORDS).into_iter();
    let of_name = |name: Name| Some(name.value(file)?.recorded(name.host));
    names.filter_map(of_name).flatten().collect()
}

/// Returns the records that a host has written under these names.
fn entries(file: &File, names: &[Name]) -> Vec<Entry> {
    names.iter().filter_map(|name| name.value(file)).flat_map(|value| value.holders).collect()
}

/// The name of an attribute.
struct Name {
    /// The id of the host that wrote it.
    host: String,
    /// The word that was never used before.
    word: String,
}

impl Name {
    /// Returns a new name for what this host writes now.
    fn new(host: &Host) -> Self {
        let (word, ..) = Uuid::new_v4().as_fields();
        Self { host: host.id().to_owned(), word: format!("{word:08x}") }
    }

    fn full(&self) -> String {
        let Self { host, word } = self;
        format!("{PREFIX}{host}.{word}")
    }

    fn read(name: &[u8]) -> Option<Self> {
        let (host, word) = str::from_utf8(name).ok()?.strip_prefix(PREFIX)?.split_once('.')?;
        (is_id(host) && is_id(word)).then(|| Self { host: host.to_owned(), word: word.to_owned() })
    }

    /// Returns the names that a file has.
    fn all(file: &File, most: usize) -> Vec<Self> {
        // Most files have few attributes, or none.
        let mut list = vec![0; LIST_USUAL];
        let mut length = flistxattr(file, &mut list[..]);
        if length == Err(Errno::RANGE) {
            list.resize(LIST_MAX, 0);
            length = flistxattr(file, &mut list[..]);
        }
        let Ok(length) = length else { return Vec::new() };
        let names = list.get(..length).unwrap_or_default().split(|byte| *byte == 0);
        names.filter_map(Self::read).take(most).collect()
    }

    /// Returns the value of the attribute, if it is readable.
    fn value(&self, file: &File) -> Option<Value> {
        // A longer value is not a record: the kernel returns an error, and copies nothing.
        let mut bytes = [0; VALUE_MAX];
        let length = fgetxattr(file, self.full(), &mut bytes[..]).ok()?;
        Value::read(&self.host, bytes.get(..length)?)
    }
}

/// The mutexes of the writers of records, by file. A writer that hangs blocks that file only.
static WRITER_MUTEXES: Mutex<Option<WriterMutexes>> = Mutex::new(None);

/// By device and inode.
type WriterMutexes = HashMap<(u64, u64), Arc<Mutex<()>>>;

/// A reference to the mutex of the writers of one file.
pub(in crate::lock) struct WriterMutex {
    node: (u64, u64),
    mutex: Arc<Mutex<()>>,
}

impl WriterMutex {
    pub(in crate::lock) fn of(file: &File) -> Self {
        // A file that cannot be examined cannot be written either; then any mutex does.
        let node = fstat(file.as_fd()).map_or((0, 0), |stat| (stat.st_dev, stat.st_ino));
        let mut writer_mutexes = writer_mutexes();
        let mutex = Arc::clone(writer_mutexes.get_or_insert_default().entry(node).or_default());
        Self { node, mutex }
    }

    pub(in crate::lock) fn lock(&self) -> MutexGuard<'_, ()> {
        sync::lock(&self.mutex)
    }
}

impl Drop for WriterMutex {
    fn drop(&mut self) {
        let mut writer_mutexes = writer_mutexes();
        // One reference is in the map and one is this: no other thread waits.
        if Arc::strong_count(&self.mutex) == 2
            && let Some(writer_mutexes) = writer_mutexes.as_mut()
        {
            writer_mutexes.remove(&self.node);
        }
    }
}

fn writer_mutexes() -> MutexGuard<'static, Option<WriterMutexes>> {
    sync::lock(&WRITER_MUTEXES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::holder_record::format::store::{RecordStore, entry, host, recorded_names};

    #[test]
    fn shared_holders_are_recorded_together_and_an_exclusive_one_alone() {
        let file = tempfile::tempfile().unwrap();
        let attributes = RecordStore { file: &file, record, erase, read };
        attributes.check_shared_holders();
        assert_eq!(Name::all(&file, REMOVED).len(), 1);
        attributes.check_exclusive_holder();
        assert!(Name::all(&file, REMOVED).is_empty());
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert!(writer_mutexes().as_ref().is_none_or(|writer_mutexes| {
            let stat = fstat(&file).unwrap();
            !writer_mutexes.contains_key(&(stat.st_dev, stat.st_ino))
        }));
    }

    #[test]
    fn concurrent_shared_holders_are_all_recorded() {
        let (file, one) = (tempfile::tempfile().unwrap(), host("one"));
        std::thread::scope(|scope| {
            for lock in 1..=4 {
                let (file, one) = (&file, &one);
                scope.spawn(move || {
                    record(file, one, &entry(lock, Mode::Shared), None).unwrap();
                });
            }
        });
        assert_eq!(recorded_names(read(&file)).len(), 4);
    }
}

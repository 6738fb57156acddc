//! The attributes of a lock file in which hosts record their holders.
//!
//! Nobody waits for another host to write its own; within this one, writers of one file take turns,
//! since the holders that share it share the attribute. The file stays as long as it is, which is
//! nothing at all, unless its file system has no attributes ([`crate::lock::holder_record::in_file`]).
//!
//! Each time a host writes, it does so under a name that was never used before, and takes away its
//! old one: file systems that hosts share may remember for half a minute what stood under a name, or
//! that nothing did (MooseFS does both), but they tell which names there are as it is.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::stat::fstat;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;
use uuid::Uuid;

use crate::lock::holder_record::format::{Entry, LONGEST, Recorded, Value};
use crate::lock::model::host::{Host, is_id};
use crate::lock::model::mode::Mode;

/// How their names begin; the host's id follows, and after a dot a word that is never used again.
const PREFIX: &str = "user.vmlockd.holder.";
/// The longest list of names that the kernel gives.
const LIST: usize = 64 * 1024;
/// And how long it mostly is at most.
const FEW: usize = 1024;
/// How many records are looked at. More hosts share no disk, and whoever can write the file could
/// leave any number.
const RECORDS: usize = 256;
/// How many are cleared away at once.
const REMOVED: usize = 1024;

/// Records a holder: beside others of this host, or in place of everybody's where it holds alone.
/// `before` is what was recorded of the lock while it was another owner's.
///
/// # Errors
///
/// What the file system says: `EOPNOTSUPP` where it has no attributes, `EROFS`, `ENOSPC`.
pub(in crate::lock) fn record(
    file: &File,
    host: &Host,
    entry: &Entry,
    before: Option<&Entry>,
) -> Result<(), Errno> {
    let turn = Turn::of(file);
    let _turn = turn.take();
    let names = Name::all(file, REMOVED);
    let (own, others): (Vec<Name>, Vec<Name>) =
        names.into_iter().partition(|name| name.host == host.id());
    let alone = entry.mode == Mode::Exclusive;
    let mut holders = if alone { Vec::new() } else { entries(file, &own) };
    entry.join(&mut holders, before);
    write(file, host, holders)?;
    remove(file, &own)?;
    if alone {
        // Somebody's who holds nothing; if it stays, nobody believes it while this one is here.
        let _ = remove(file, &others);
    }
    Ok(())
}

/// Records a holder no more.
///
/// # Errors
///
/// What the file system says, but for an attribute that is not there.
pub(in crate::lock) fn erase(file: &File, host: &Host, entry: &Entry) -> Result<(), Errno> {
    let turn = Turn::of(file);
    let _turn = turn.take();
    let mut own = Name::all(file, REMOVED);
    own.retain(|name| name.host == host.id());
    let mut holders = entries(file, &own);
    holders.retain(|other| !other.is_of_same_lock(entry));
    if !holders.is_empty() {
        write(file, host, holders)?;
    }
    remove(file, &own)
}

/// Under a name of its own, so that whoever reads meanwhile finds the old ones or this.
fn write(file: &File, host: &Host, holders: Vec<Entry>) -> Result<(), Errno> {
    let value = Value { host: host.name(), holders };
    fsetxattr(file, Name::new(host).full(), &value.write(host.id()), XattrFlags::CREATE)
}

/// Removes all of these, or says why the first can't be that is there.
fn remove(file: &File, names: &[Name]) -> Result<(), Errno> {
    let each = names.iter().map(|name| match fremovexattr(file, name.full()) {
        Err(Errno::NODATA) => Ok(()),
        done => done,
    });
    // All are tried.
    each.fold(Ok(()), Result::and)
}

/// All holders on record that can be understood, of a bounded number of hosts.
pub(in crate::lock) fn read(file: &File) -> Vec<Recorded> {
    let names = Name::all(file, RECORDS).into_iter();
    let of_name = |name: Name| Some(name.value(file)?.recorded(name.host));
    names.filter_map(of_name).flatten().collect()
}

/// What a host has recorded under these names.
fn entries(file: &File, names: &[Name]) -> Vec<Entry> {
    names.iter().filter_map(|name| name.value(file)).flat_map(|value| value.holders).collect()
}

/// The name of an attribute.
struct Name {
    /// The id of the host that wrote it.
    host: String,
    /// What was never used before.
    word: String,
}

impl Name {
    /// One for what this host writes now.
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

    /// Those that a file has.
    fn all(file: &File, most: usize) -> Vec<Self> {
        // Mostly there are few attributes, or none.
        let mut list = vec![0; FEW];
        let mut length = flistxattr(file, &mut list[..]);
        if length == Err(Errno::RANGE) {
            list.resize(LIST, 0);
            length = flistxattr(file, &mut list[..]);
        }
        let Ok(length) = length else { return Vec::new() };
        let names = list.get(..length).unwrap_or_default().split(|byte| *byte == 0);
        names.filter_map(Self::read).take(most).collect()
    }

    /// What stands there, if it can be understood.
    fn value(&self, file: &File) -> Option<Value> {
        // What is longer is none of ours: the kernel says so, and copies nothing.
        let mut bytes = [0; LONGEST];
        let length = fgetxattr(file, self.full(), &mut bytes[..]).ok()?;
        Value::read(&self.host, bytes.get(..length)?)
    }
}

/// The turns of those who write records, by file. One that hangs holds up that file alone.
static TURNS: Mutex<Option<Turns>> = Mutex::new(None);

/// By device and inode.
type Turns = HashMap<(u64, u64), Arc<Mutex<()>>>;

/// The right to wait for the turn at one file.
pub(in crate::lock) struct Turn {
    node: (u64, u64),
    turn: Arc<Mutex<()>>,
}

impl Turn {
    pub(in crate::lock) fn of(file: &File) -> Self {
        // What can't be looked at can't be written either; then it matters not whose turn it is.
        let node = fstat(file.as_fd()).map_or((0, 0), |stat| (stat.st_dev, stat.st_ino));
        let mut turns = turns();
        let turn = Arc::clone(turns.get_or_insert_default().entry(node).or_default());
        Self { node, turn }
    }

    pub(in crate::lock) fn take(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = turns();
        // The map's and ours: nobody else waits.
        if Arc::strong_count(&self.turn) == 2
            && let Some(turns) = turns.as_mut()
        {
            turns.remove(&self.node);
        }
    }
}

fn turns() -> MutexGuard<'static, Option<Turns>> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::holder_record::format::place::{Place, entry, host, told};

    #[test]
    fn sharers_stand_side_by_side_and_who_holds_alone_stands_alone() {
        let file = tempfile::tempfile().unwrap();
        let attributes = Place { file: &file, record, erase, read };
        attributes.has_sharers_side_by_side();
        assert_eq!(Name::all(&file, REMOVED).len(), 1);
        attributes.has_who_holds_alone();
        assert!(Name::all(&file, REMOVED).is_empty());
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert!(turns().as_ref().is_none_or(|turns| {
            let stat = fstat(&file).unwrap();
            !turns.contains_key(&(stat.st_dev, stat.st_ino))
        }));
    }

    #[test]
    fn sharers_that_come_at_once_are_all_recorded() {
        let (file, one) = (tempfile::tempfile().unwrap(), host("one"));
        std::thread::scope(|scope| {
            for lock in 1..=4 {
                let (file, one) = (&file, &one);
                scope.spawn(move || {
                    record(file, one, &entry(lock, Mode::Shared), None).unwrap();
                });
            }
        });
        assert_eq!(told(read(&file)).len(), 4);
    }
}

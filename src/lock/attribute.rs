//! The attributes of a lock file in which hosts record their holders.
//!
//! Nobody waits for another host to write its own; within this one, writers of one file take turns,
//! since the holders that share it share the attribute. The file stays as long as it is, which is
//! nothing at all.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::stat::fstat;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use super::host::{Host, is_id};
use super::mode::Mode;
use super::recorded::{Entry, LONGEST, Recorded, Value};

/// How their names begin; the host's id follows.
const PREFIX: &str = "user.vmlockd.holder.";
/// The longest list of names that the kernel gives.
const LIST: usize = 64 * 1024;
/// And how long it mostly is at most.
const FEW: usize = 1024;
/// How many records are looked at. More hosts share no disk, and whoever can write the file could
/// leave any number.
const HOSTS: usize = 256;
/// How many are cleared away at once.
const REMOVED: usize = 1024;

/// Records a holder: beside others of this host, or in place of everybody's where it holds alone.
/// `before` is what was recorded of the lock while it was another owner's.
///
/// # Errors
///
/// What the file system says: `EOPNOTSUPP` where it has no attributes, `EROFS`, `ENOSPC`.
pub(super) fn record(
    file: &File,
    host: &Host,
    entry: &Entry,
    before: Option<&Entry>,
) -> Result<(), Errno> {
    let alone = entry.mode == Mode::Exclusive;
    let turn = Turn::of(file);
    let _turn = turn.take();
    let own = name_of(host.id());
    let mut holders = if alone { Vec::new() } else { own_entries(file, host) };
    holders.retain(|other| {
        !other.is_of_same_lock(entry) && !before.is_some_and(|before| before.is_of_same_lock(other))
    });
    holders.push(entry.clone());
    let value = Value { host: host.name(), holders };
    fsetxattr(file, &own, &value.write(host.id()), XattrFlags::empty())?;
    if alone {
        for id in ids(file, REMOVED).iter().filter(|id| *id != host.id()) {
            // Somebody's who holds nothing; if it stays, nobody believes it while this one is here.
            let _ = fremovexattr(file, name_of(id));
        }
    }
    Ok(())
}

/// Records a holder no more.
///
/// # Errors
///
/// What the file system says, but for an attribute that is not there.
pub(super) fn erase(file: &File, host: &Host, entry: &Entry) -> Result<(), Errno> {
    let turn = Turn::of(file);
    let _turn = turn.take();
    let own = name_of(host.id());
    let mut holders = own_entries(file, host);
    holders.retain(|other| !other.is_of_same_lock(entry));
    let done = if holders.is_empty() {
        fremovexattr(file, &own)
    } else {
        let value = Value { host: host.name(), holders };
        fsetxattr(file, &own, &value.write(host.id()), XattrFlags::empty())
    };
    match done {
        Err(Errno::NODATA) => Ok(()),
        done => done,
    }
}

/// All holders on record that can be understood, of a bounded number of hosts.
pub(super) fn read(file: &File) -> Vec<Recorded> {
    let ids = ids(file, HOSTS).into_iter();
    let of_host = |host_id: String| {
        let Value { host, holders } = value_of(file, &host_id)?;
        let recorded =
            move |entry| Recorded { host_id: host_id.clone(), host: host.clone(), entry };
        Some(holders.into_iter().map(recorded))
    };
    ids.filter_map(of_host).flatten().collect()
}

fn name_of(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn own_entries(file: &File, host: &Host) -> Vec<Entry> {
    value_of(file, host.id()).map(|value| value.holders).unwrap_or_default()
}

fn value_of(file: &File, id: &str) -> Option<Value> {
    // What is longer is none of ours: the kernel says so, and copies nothing.
    let mut bytes = [0; LONGEST];
    let length = fgetxattr(file, name_of(id), &mut bytes[..]).ok()?;
    Value::read(id, bytes.get(..length)?)
}

/// The ids of hosts that have recorded something.
fn ids(file: &File, most: usize) -> Vec<String> {
    // Mostly there are few attributes, or none.
    let mut list = vec![0; FEW];
    let mut length = flistxattr(file, &mut list[..]);
    if length == Err(Errno::RANGE) {
        list.resize(LIST, 0);
        length = flistxattr(file, &mut list[..]);
    }
    let Ok(length) = length else { return Vec::new() };
    let names = list.get(..length).unwrap_or_default().split(|byte| *byte == 0);
    let ids = names.filter_map(|name| str::from_utf8(name).ok()?.strip_prefix(PREFIX));
    ids.filter(|id| is_id(id)).take(most).map(str::to_owned).collect()
}

/// The turns of those who write records, by file. One that hangs holds up that file alone.
static TURNS: Mutex<Option<Turns>> = Mutex::new(None);

/// By device and inode.
type Turns = HashMap<(u64, u64), Arc<Mutex<()>>>;

/// The right to wait for the turn at one file.
struct Turn {
    node: (u64, u64),
    turn: Arc<Mutex<()>>,
}

impl Turn {
    fn of(file: &File) -> Self {
        // What can't be looked at can't be written either; then it matters not whose turn it is.
        let node = fstat(file.as_fd()).map_or((0, 0), |stat| (stat.st_dev, stat.st_ino));
        let mut turns = turns();
        let turn = Arc::clone(turns.get_or_insert_default().entry(node).or_default());
        Self { node, turn }
    }

    fn take(&self) -> MutexGuard<'_, ()> {
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
    use uuid::Uuid;

    fn host(id: &str) -> Host {
        Host::new(Some(id), Some(id)).unwrap().unwrap()
    }

    fn entry(lock: u64, mode: Mode) -> Entry {
        let (name, user, path) = (format!("web{lock}"), "root".to_owned(), "/a".to_owned());
        Entry { lock, name, uuid: Uuid::from_u128(1), pid: 1, user, mode, since: lock, path }
    }

    fn told(file: &File) -> Vec<String> {
        let mut told: Vec<String> = read(file)
            .into_iter()
            .map(|recorded| format!("{} {}", recorded.host, recorded.entry.name))
            .collect();
        told.sort();
        told
    }

    #[test]
    fn sharers_stand_side_by_side_and_who_holds_alone_stands_alone() {
        let file = tempfile::tempfile().unwrap();
        let (one, two) = (host("one"), host("two"));
        erase(&file, &one, &entry(1, Mode::Shared)).unwrap();
        for (host, lock) in [(&one, 1), (&one, 2), (&two, 1), (&one, 2)] {
            record(&file, host, &entry(lock, Mode::Shared), None).unwrap();
        }
        assert_eq!(told(&file), ["one web1", "one web2", "two web1"]);
        erase(&file, &one, &entry(1, Mode::Shared)).unwrap();
        erase(&file, &two, &entry(1, Mode::Shared)).unwrap();
        assert_eq!(told(&file), ["one web2"]);
        // Handed over, by which it got another number.
        let (before, after) = (entry(2, Mode::Shared), entry(4, Mode::Shared));
        record(&file, &one, &after, Some(&before)).unwrap();
        assert_eq!(told(&file), ["one web4"]);
        record(&file, &two, &entry(3, Mode::Exclusive), None).unwrap();
        assert_eq!(told(&file), ["two web3"]);
        erase(&file, &two, &entry(3, Mode::Exclusive)).unwrap();
        assert!(told(&file).is_empty());
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
        assert_eq!(told(&file).len(), 4);
    }
}

//! Tests that every store of records has to pass: attributes, and slots in the file.

use std::fmt::Debug;
use std::fs::File;

use uuid::Uuid;

use super::{Entry, Recorded};
use crate::lock::Mode;
use crate::lock::model::host::Host;

pub(in crate::lock) fn host(id: &str) -> Host {
    Host::new(Some(id), Some(id)).unwrap().unwrap()
}

pub(in crate::lock) fn entry(lock: u64, mode: Mode) -> Entry {
    let (name, user, path) = (format!("web{lock}"), "root".to_owned(), "/a".to_owned());
    Entry {
        lock,
        name,
        uuid: Uuid::from_u128(1),
        pid: 1,
        user,
        mode,
        since: lock,
        path,
        why: String::new(),
    }
}

/// Returns the recorded holders, by host and name, in this order.
pub(in crate::lock) fn recorded_names(read: Vec<Recorded>) -> Vec<String> {
    let recorded_names = |recorded: Recorded| format!("{} {}", recorded.host, recorded.entry.name);
    let mut recorded_names: Vec<String> = read.into_iter().map(recorded_names).collect();
    recorded_names.sort();
    recorded_names
}

/// A store of records. Its errors end the test.
pub(in crate::lock) struct RecordStore<'f, E> {
    pub(in crate::lock) file: &'f File,
    pub(in crate::lock) record: fn(&File, &Host, &Entry, Option<&Entry>) -> Result<(), E>,
    pub(in crate::lock) erase: fn(&File, &Host, &Entry) -> Result<(), E>,
    pub(in crate::lock) read: fn(&File) -> Vec<Recorded>,
}

impl<E: Debug> RecordStore<'_, E> {
    fn record(&self, host: &Host, entry: &Entry, before: Option<&Entry>) {
        (self.record)(self.file, host, entry, before).unwrap();
    }

    fn erase(&self, host: &Host, entry: &Entry) {
        (self.erase)(self.file, host, entry).unwrap();
    }

    fn expect_holders(&self, expected: &[&str]) {
        assert_eq!(recorded_names((self.read)(self.file)), expected);
    }

    /// Tests that holders that share a lock are recorded beside each other, on two hosts.
    pub(in crate::lock) fn check_shared_holders(&self) {
        let (one, two) = (host("one"), host("two"));
        self.erase(&one, &entry(1, Mode::Shared));
        self.expect_holders(&[]);
        for (host, lock) in [(&one, 1), (&one, 2), (&two, 1), (&one, 2)] {
            self.record(host, &entry(lock, Mode::Shared), None);
        }
        self.expect_holders(&["one web1", "one web2", "two web1"]);
        self.erase(&one, &entry(1, Mode::Shared));
        self.erase(&two, &entry(1, Mode::Shared));
        self.expect_holders(&["one web2"]);
        // The lock was transferred, so it has another number.
        self.record(&one, &entry(4, Mode::Shared), Some(&entry(2, Mode::Shared)));
        self.expect_holders(&["one web4"]);
    }

    /// Tests that the record of an exclusive holder replaces all others, also those of crashed
    /// holders.
    pub(in crate::lock) fn check_exclusive_holder(&self) {
        let two = host("two");
        self.record(&two, &entry(3, Mode::Exclusive), None);
        self.expect_holders(&["two web3"]);
        self.erase(&two, &entry(3, Mode::Exclusive));
        self.expect_holders(&[]);
    }
}

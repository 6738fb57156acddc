//! Finding what is about one resource: by what the resource is, and by its lock files.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::path::PathBuf;

use super::identity::Identity;
use super::record::Want;

/// An index of things that are each about one resource.
#[derive(Debug)]
pub(super) struct Spots<T> {
    by_identity: HashMap<Identity, BTreeSet<T>>,
    by_lock_file: HashMap<PathBuf, BTreeSet<T>>,
}

impl<T> Default for Spots<T> {
    fn default() -> Self {
        Self { by_identity: HashMap::new(), by_lock_file: HashMap::new() }
    }
}

impl<T: Copy + Ord> Spots<T> {
    /// Enters a thing that is about this resource.
    pub(super) fn insert(&mut self, want: &Want, thing: T) {
        self.by_identity.entry(want.identity).or_default().insert(thing);
        for file in lock_files(want) {
            self.by_lock_file.entry(file.clone()).or_default().insert(thing);
        }
    }

    /// Takes it out.
    pub(super) fn remove(&mut self, want: &Want, thing: T) {
        forget(&mut self.by_identity, &want.identity, &thing);
        for file in lock_files(want) {
            forget(&mut self.by_lock_file, file, &thing);
        }
    }

    /// Everything about this resource, under whatever name, in order.
    pub(super) fn meeting(&self, want: &Want) -> BTreeSet<T> {
        let files = lock_files(want).iter().filter_map(|file| self.by_lock_file.get(file));
        files.chain(self.by_identity.get(&want.identity)).flatten().copied().collect()
    }

    /// Everything about what this is, in order.
    pub(super) fn on(&self, identity: Identity) -> impl Iterator<Item = T> {
        self.by_identity.get(&identity).into_iter().flatten().copied()
    }

    /// How many entries there are, and whether none of them is empty.
    #[cfg(test)]
    pub(super) fn census(&self) -> (usize, bool) {
        let sizes = || self.by_identity.values().map(BTreeSet::len);
        (sizes().sum(), sizes().chain(self.by_lock_file.values().map(BTreeSet::len)).all(|n| n > 0))
    }
}

/// The lock files that stand for a resource. A disk that is its own lock file is known by what it
/// is: its name may lead elsewhere tomorrow.
fn lock_files(want: &Want) -> &[PathBuf] {
    if want.lockspace.has_files() { &want.lock_files } else { &[] }
}

fn forget<K: Hash + Eq, T: Ord>(index: &mut HashMap<K, BTreeSet<T>>, key: &K, thing: &T) {
    if let Some(things) = index.get_mut(key) {
        things.remove(thing);
        if things.is_empty() {
            index.remove(key);
        }
    }
}

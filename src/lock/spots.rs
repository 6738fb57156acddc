//! Finding what is about one resource: by what the resource is and lies on, and by its lock files.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::path::PathBuf;

use super::identity::Identity;
use super::record::Want;

/// An index of things that are each about one resource.
#[derive(Debug)]
pub(super) struct Spots<T> {
    identities: HashMap<Identity, BTreeSet<T>>,
    /// By each of what the resource lies on.
    lower: HashMap<Identity, BTreeSet<T>>,
    lock_files: HashMap<PathBuf, BTreeSet<T>>,
}

impl<T> Default for Spots<T> {
    fn default() -> Self {
        let (identities, lower) = (HashMap::new(), HashMap::new());
        Self { identities, lower, lock_files: HashMap::new() }
    }
}

impl<T: Copy + Ord> Spots<T> {
    /// Enters a thing that is about this resource.
    pub(super) fn insert(&mut self, want: &Want, thing: T) {
        self.identities.entry(want.identity).or_default().insert(thing);
        for below in &want.below {
            self.lower.entry(*below).or_default().insert(thing);
        }
        for file in files_of(want) {
            self.lock_files.entry(file.clone()).or_default().insert(thing);
        }
    }

    /// Takes it out.
    pub(super) fn remove(&mut self, want: &Want, thing: T) {
        forget(&mut self.identities, &want.identity, &thing);
        for below in &want.below {
            forget(&mut self.lower, below, &thing);
        }
        for file in files_of(want) {
            forget(&mut self.lock_files, file, &thing);
        }
    }

    /// Everything about this resource, under whatever name, about what it lies on, and about what
    /// lies on it, in order.
    pub(super) fn meeting(&self, want: &Want) -> BTreeSet<T> {
        let files = files_of(want).iter().filter_map(|file| self.lock_files.get(file));
        files.flatten().copied().chain(self.on(want.identity, &want.below)).collect()
    }

    /// Everything about what is this, about what it lies on, and about what lies on it; some of it
    /// perhaps twice.
    pub(super) fn on(&self, identity: Identity, below: &[Identity]) -> impl Iterator<Item = T> {
        let itself_and_below = std::iter::once(&identity).chain(below);
        let here = itself_and_below.filter_map(|identity| self.identities.get(identity));
        let above = self.lower.get(&identity);
        here.chain(above).flatten().copied().collect::<Vec<_>>().into_iter()
    }

    /// Whether nothing here lies on anything else.
    pub(super) fn is_flat(&self) -> bool {
        self.lower.is_empty()
    }

    /// How many entries there are, and whether none of them is empty.
    #[cfg(test)]
    pub(super) fn census(&self) -> (usize, bool) {
        let sizes = || self.identities.values().map(BTreeSet::len);
        let others = self.lower.values().map(BTreeSet::len);
        let others = others.chain(self.lock_files.values().map(BTreeSet::len));
        (sizes().sum(), sizes().chain(others).all(|n| n > 0))
    }
}

/// The lock files that stand for a resource. A disk that is its own lock file is known by what it
/// is: its name may lead elsewhere tomorrow.
fn files_of(want: &Want) -> &[PathBuf] {
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

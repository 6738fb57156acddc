//! An index that finds entries by resource: by the identity of the resource, by the ranges that it
//! occupies of other files and devices, and by its lock files.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::path::PathBuf;

use crate::lock::model::extent::{Extent, Placement};
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Want;

/// An index of entries that each belong to one resource.
#[derive(Debug)]
pub(in crate::lock) struct ResourceIndex<T> {
    identities: HashMap<Identity, BTreeSet<T>>,
    /// By each file and device of which the resource occupies an exactly known range.
    exact: HashMap<Identity, BTreeSet<(T, Extent)>>,
    /// By each file and device of which the resource occupies an unknown part.
    partial: HashMap<Identity, BTreeSet<(T, Extent)>>,
    lock_files: HashMap<PathBuf, BTreeSet<T>>,
}

impl<T> Default for ResourceIndex<T> {
    fn default() -> Self {
        let (exact, partial) = (HashMap::new(), HashMap::new());
        Self { identities: HashMap::new(), exact, partial, lock_files: HashMap::new() }
    }
}

impl<T: Copy + Ord> ResourceIndex<T> {
    /// Adds an entry for this resource.
    pub(in crate::lock) fn insert(&mut self, want: &Want, entry: T) {
        self.identities.entry(want.identity).or_default().insert(entry);
        for extent in &want.below {
            self.lower(extent.placement)
                .entry(extent.identity)
                .or_default()
                .insert((entry, *extent));
        }
        for file in files_of(want) {
            self.lock_files.entry(file.clone()).or_default().insert(entry);
        }
    }

    /// Removes an entry for this resource.
    pub(in crate::lock) fn remove(&mut self, want: &Want, entry: T) {
        remove_entry(&mut self.identities, &want.identity, &entry);
        for extent in &want.below {
            remove_entry(self.lower(extent.placement), &extent.identity, &(entry, *extent));
        }
        for file in files_of(want) {
            remove_entry(&mut self.lock_files, file, &entry);
        }
    }

    fn lower(&mut self, placement: Placement) -> &mut HashMap<Identity, BTreeSet<(T, Extent)>> {
        match placement {
            Placement::Exact => &mut self.exact,
            Placement::Partial => &mut self.partial,
        }
    }

    /// Returns the entries for this resource under any of its names, for the layers below and above
    /// it, and for all that overlaps it, in order.
    pub(in crate::lock) fn overlapping(&self, want: &Want) -> BTreeSet<T> {
        let files = files_of(want).iter().filter_map(|file| self.lock_files.get(file));
        files.flatten().copied().chain(self.on(want.identity, &want.below)).collect()
    }

    /// Returns the entries for `identity`, for the layers below and above it, and for all that
    /// overlaps it. An entry may occur several times.
    pub(in crate::lock) fn on(
        &self,
        identity: Identity,
        below: &[Extent],
    ) -> impl Iterator<Item = T> {
        let lower = below.iter().filter(|extent| extent.conflicts(&Extent::whole(extent.identity)));
        let here = std::iter::once(identity).chain(lower.map(|extent| extent.identity));
        let here = here.filter_map(|identity| self.identities.get(&identity)).flatten().copied();
        let all = Extent::whole(identity);
        let mut found: Vec<T> = here.collect();
        for extent in std::iter::once(&all).chain(below) {
            // Two unknown parts never conflict, and a volume group may have thousands.
            let partial = self.partial.get(&extent.identity);
            let partial = partial.filter(|_| extent.placement == Placement::Exact);
            let others = self.exact.get(&extent.identity).into_iter().chain(partial).flatten();
            found.extend(
                others.filter(|(_, other)| extent.conflicts(other)).map(|(entry, _)| *entry),
            );
        }
        found.into_iter()
    }

    /// Whether no resource in the index lies on another file or device.
    pub(in crate::lock) fn is_flat(&self) -> bool {
        self.exact.is_empty() && self.partial.is_empty()
    }

    /// Returns the number of index entries, and whether every entry is non-empty.
    #[cfg(test)]
    pub(in crate::lock) fn census(&self) -> (usize, bool) {
        let sizes = || self.identities.values().map(BTreeSet::len);
        let others = self.exact.values().chain(self.partial.values()).map(BTreeSet::len);
        let others = others.chain(self.lock_files.values().map(BTreeSet::len));
        (sizes().sum(), sizes().chain(others).all(|n| n > 0))
    }
}

/// Returns the lock files that stand for a resource: none for a disk that is its own lock file.
/// Such a disk is found by its identity, since its name may lead to another disk tomorrow.
fn files_of(want: &Want) -> &[PathBuf] {
    if want.lockspace.has_files() { &want.lock_files } else { &[] }
}

fn remove_entry<K: Hash + Eq, T: Ord>(index: &mut HashMap<K, BTreeSet<T>>, key: &K, entry: &T) {
    if let Some(entries) = index.get_mut(key) {
        entries.remove(entry);
        if entries.is_empty() {
            index.remove(key);
        }
    }
}

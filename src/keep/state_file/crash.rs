//! Crashes for tests: what the file contains before each store.

use std::cell::RefCell;

use super::mapping::Mapping;

thread_local! {
    /// The images of the file that are being recorded.
    static IMAGES: RefCell<Option<Vec<Vec<u8>>>> = const { RefCell::new(None) };
}

/// Records the file as a crash at this instant would leave it.
pub(super) fn before_store(mapping: &Mapping) {
    IMAGES.with_borrow_mut(|images| {
        if let Some(images) = images {
            let words = (0..mapping.len()).map(|at| mapping.load(at));
            images.push(words.flat_map(u64::to_le_bytes).collect());
        }
    });
}

/// Returns what the file contained before each store of `write`.
pub(super) fn images(write: impl FnOnce()) -> Vec<Vec<u8>> {
    IMAGES.set(Some(Vec::new()));
    write();
    IMAGES.take().unwrap_or_default()
}

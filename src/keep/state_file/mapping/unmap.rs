//! The end of a mapping.

use std::mem::size_of_val;

use rustix::mm::munmap;

use super::Mapping;

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let start = self.words.as_ptr().cast_mut().cast();
        // SAFETY: the words are those that `Mapping::new` mapped, and their only owner is being
        // dropped: references to them exist only within its methods.
        // It fails only for addresses that are no mapping.
        let _ = unsafe { munmap(start, size_of_val(self.words)) };
    }
}

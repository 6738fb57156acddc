//! Lists of the kernel that report when they have changed, so that an unchanged list is not read
//! again.
//!
//! `poll(2)` reports `POLLPRI` on `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`) and on
//! `/proc/swaps` (`swaps_poll()` in `mm/swapfile.c`): once for all changes since the file was
//! opened, or since the last report.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{PROC_SUPER_MAGIC, fstatfs};

use crate::sync;

/// A list, and its content when it was last read.
#[derive(Debug)]
pub(in crate::lock) struct Polled<T> {
    path: &'static str,
    current: Mutex<Option<(File, Arc<T>)>>,
}

impl<T> Polled<T> {
    /// Returns a list that has not been read yet.
    pub(in crate::lock) const fn new(path: &'static str) -> Self {
        Self { path, current: Mutex::new(None) }
    }

    /// Returns the present content of the list.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(in crate::lock) fn current(&self, parse: impl FnOnce(&[u8]) -> T) -> io::Result<Arc<T>> {
        let mut current = sync::lock(&self.current);
        if let Some((list, content)) = &*current {
            let mut polled = [PollFd::new(list, PollFlags::PRI)];
            if poll(&mut polled, Some(&Timespec::default()))? == 0 {
                return Ok(Arc::clone(content));
            }
            // The change is not reported again, even if reading fails now.
            *current = None;
        }
        // Opened before it is read: a change while it is read is reported the next time.
        let mut list = File::open(self.path)?;
        let mut text = Vec::new();
        list.read_to_end(&mut text)?;
        let content = Arc::new(parse(&text));
        // In a container, a FUSE file that reports no changes may be mounted over it.
        let is_pollable = fstatfs(&list)?.f_type == PROC_SUPER_MAGIC;
        *current = is_pollable.then(|| (list, Arc::clone(&content)));
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_reports_nothing_is_read_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path: &'static str = file.path().to_str().unwrap().to_owned().leak();
        let list = Polled::new(path);
        let length = || *list.current(<[u8]>::len).unwrap();
        assert_eq!(length(), 0);
        std::fs::write(path, "more").unwrap();
        assert_eq!(length(), 4);
    }

    #[test]
    fn an_unchanged_kernel_list_is_read_once() {
        let list = Polled::new("/proc/self/mountinfo");
        let mut content = list.current(<[u8]>::to_vec).unwrap();
        // Another test may mount a file system meanwhile.
        let is_kept = || {
            let before = std::mem::replace(&mut content, list.current(<[u8]>::to_vec).unwrap());
            Arc::ptr_eq(&before, &content)
        };
        assert!(std::iter::repeat_with(is_kept).take(100).any(|kept| kept));
    }
}

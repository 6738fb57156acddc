//! Reads `/proc`.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat, readlinkat};

/// Returns the numbers of all processes.
pub(super) fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Opens a directory; `None` if it does not exist or is not accessible.
pub(super) fn open_dir(at: impl AsFd, path: impl rustix::path::Arg) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty()).ok()
}

/// Opens a file for reading; `None` if it does not exist or is not accessible.
pub(super) fn open_file(at: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Option<File> {
    openat(at, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from)
}

/// Reads a link; `None` if it does not exist or is not accessible.
pub(super) fn read_link(at: impl AsFd, path: &CStr) -> Option<Vec<u8>> {
    readlinkat(at, path, Vec::new()).ok().map(CString::into_bytes)
}

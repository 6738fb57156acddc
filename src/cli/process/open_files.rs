//! The open files of a process, in `/proc`.

use std::fs;
use std::iter;
use std::path::{Path, PathBuf};

use crate::lock::foreign::file_tables::threads_with_own_table;

/// A descriptor of a process.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// Its link in `/proc/PID/fd`.
    pub(crate) link: PathBuf,
    /// The target of the link: the path of a file, or a name such as `pipe:[4711]`.
    pub(crate) target: PathBuf,
}

/// Returns the open files of a process, including those of threads with a descriptor table of their
/// own. Does not access the file systems of these files. Descriptors that this user may not see are
/// omitted.
pub(crate) fn open_files(process: &Path) -> impl Iterator<Item = OpenFile> {
    let threads = threads_with_own_table(process, || true);
    let threads = threads.map(|thread| process.join("task").join(thread.to_string()));
    let tables = iter::once(process.to_owned()).chain(threads);
    let entries =
        tables.filter_map(|table| fs::read_dir(table.join("fd")).ok()).flatten().flatten();
    entries.filter_map(|entry| {
        let link = entry.path();
        let target = fs::read_link(&link).ok()?;
        Some(OpenFile { link, target })
    })
}

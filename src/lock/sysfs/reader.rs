//! Readers of the files and directories of sysfs: [`Kernel`] reads them on each request, [`Once`]
//! reads each of them once.
//!
//! This is the seam at which the unit tests count what an acquisition opens.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::sync;

/// The size of the read buffer. The kernel limits the content of a file to one page (`sysfs.rst`,
/// "Reading/Writing Attribute Data"), so one read returns all of it.
const PAGE: usize = 4096;

/// Reads files and directories of sysfs.
pub(in crate::lock) trait Reader: fmt::Debug + Send + Sync {
    /// Returns the content of a file; `None` if there is no such file, or its device has just gone.
    ///
    /// # Errors
    ///
    /// Errors of reading.
    fn file(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;

    /// Returns the names in a directory, sorted; none if there is no such directory.
    ///
    /// # Errors
    ///
    /// Errors of reading.
    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>>;

    /// Returns whether there is a directory of this name. Opens nothing.
    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    /// Returns the target of a symbolic link; `None` if there is none. Opens nothing.
    fn link(&self, path: &Path) -> Option<PathBuf> {
        fs::read_link(path).ok()
    }
}

/// A reader that reads the present content on each request.
#[derive(Debug)]
pub(in crate::lock) struct Kernel;

impl Reader for Kernel {
    fn file(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let is_missing = |error: &io::Error| {
            let kinds = [ErrorKind::NotFound, ErrorKind::NotADirectory];
            kinds.contains(&error.kind())
                || matches!(Errno::from_io_error(error), Some(Errno::NODEV | Errno::NXIO))
        };
        match File::open(path).and_then(content) {
            Ok(content) => Ok(Some(content)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = entries.map(|entry| Ok(entry?.file_name()));
        let mut names: Vec<OsString> = names.collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }
}

/// Reads to the end, without querying the size first as [`fs::read`] does: sysfs does not report
/// it.
fn content(mut file: File) -> io::Result<Vec<u8>> {
    let (mut content, mut page) = (Vec::new(), [0; PAGE]);
    loop {
        match file.read(&mut page) {
            Ok(0) => return Ok(content),
            Ok(n) => content.extend_from_slice(page.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A reader that reads each file and each directory at most once, and then returns the same
/// content. A failed read is tried again.
#[derive(Debug)]
pub(super) struct Once {
    reader: Arc<dyn Reader>,
    files: Mutex<BTreeMap<PathBuf, Option<Vec<u8>>>>,
    directories: Mutex<BTreeMap<PathBuf, Vec<OsString>>>,
}

impl Once {
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, files: Mutex::default(), directories: Mutex::default() }
    }
}

impl Reader for Once {
    fn file(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        cached(&self.files, path, || self.reader.file(path))
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        cached(&self.directories, directory, || self.reader.names(directory))
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.reader.is_directory(path)
    }

    fn link(&self, path: &Path) -> Option<PathBuf> {
        self.reader.link(path)
    }
}

/// Returns the stored content of a path, or reads it.
fn cached<T: Clone>(
    cached: &Mutex<BTreeMap<PathBuf, T>>,
    path: &Path,
    read: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    // Held while reading: a second thread waits for the first one instead of reading as well.
    let mut cached = sync::lock(cached);
    if let Some(content) = cached.get(path) {
        return Ok(content.clone());
    }
    let content = read()?;
    cached.insert(path.to_owned(), content.clone());
    Ok(content)
}

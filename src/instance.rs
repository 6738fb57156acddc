//! One service for one runtime directory.
//!
//! Before anything is read or changed there, its `lock` file is locked; whoever comes second finds
//! it taken and who has it. The kernel frees it however the service ends.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::lock::Mode;
use crate::lock::ofd;
use crate::lock::printable::shown_path;

/// The name of the lock file in the runtime directory.
const FILE: &str = "lock";

/// The right to be the service of a runtime directory, for as long as it lives.
#[derive(Debug)]
pub struct Instance {
    file: File,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one is there.
    #[error("already running, pid {pid} (it holds {file})")]
    Running {
        /// Its process, as it wrote it down itself.
        pid: String,
        /// Its lock file.
        file: String,
    },
    /// The runtime directory can't be used.
    #[error("runtime directory {directory}: {cause}")]
    Directory {
        /// The directory.
        directory: String,
        /// The cause.
        cause: io::Error,
    },
}

impl Instance {
    /// Takes the right. The directory is made if it is missing. `inherited` is the lock of the
    /// program that this one replaced, which was never given up.
    ///
    /// # Errors
    ///
    /// [`Error::Running`], having changed nothing; [`Error::Directory`].
    pub fn begin(directory: &Path, inherited: Option<OwnedFd>) -> Result<Self, Error> {
        let failed = |cause| Error::Directory { directory: shown_path(directory), cause };
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        let path = directory.join(FILE);
        let opened = || {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(false);
            options.mode(0o600).open(&path)
        };
        let inherited = inherited.map(File::from).filter(|file| leads_to(&path, file));
        let mut file = inherited.map_or_else(opened, Ok).map_err(failed)?;
        if !ofd::try_lock(&file, Mode::Exclusive).map_err(|errno| failed(errno.into()))? {
            let mut pid = String::new();
            // One that has just begun may not have written it yet: then it is said as unknown.
            let read = file.read_to_string(&mut pid).is_ok_and(|read| read > 0);
            let pid = if read { pid.trim().to_owned() } else { "unknown".to_owned() };
            return Err(Error::Running { pid, file: shown_path(&path) });
        }
        let pid = format!("{}\n", std::process::id());
        let written = file.set_len(0).and_then(|()| file.rewind());
        written.and_then(|()| file.write_all(pid.as_bytes())).map_err(failed)?;
        Ok(Self { file })
    }
}

impl AsFd for Instance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether a path is that of an open file.
fn leads_to(path: &Path, file: &File) -> bool {
    let looked = path.metadata().and_then(|there| Ok((there, file.metadata()?)));
    looked.is_ok_and(|(there, open)| (there.dev(), there.ino()) == (open.dev(), open.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let first = Instance::begin(&path, None).unwrap();
        let error = Instance::begin(&path, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("already running, pid {} ", std::process::id())));
        drop(first);
        Instance::begin(&path, None).unwrap();
    }
}

//! The socket on which libvirt expects virtlockd.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::net::{AddressFamily, listen};

use crate::lock::printable::shown_path;

/// How many clients may wait to be let in.
const BACKLOG: i32 = 4096;

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else serves it.
    #[error("socket {0} is served by another program already, perhaps virtlockd")]
    Served(String),
    /// What was passed is no listening socket.
    #[error("the socket that was passed is no listening unix socket")]
    Unfit,
    /// Something else is in its place.
    #[error("socket {0}: something that is no socket is in its place")]
    Taken(String),
    /// The system failed at something.
    #[error("{doing} socket {path}: {cause}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The socket.
        path: String,
        /// The cause.
        cause: io::Error,
    },
}

impl Error {
    /// Whether the file system is full or read-only.
    #[must_use]
    pub fn is_lack_of_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let Self::System { cause, .. } = self else { return false };
        matches!(cause.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
    }
}

/// A socket that clients can connect to.
#[derive(Debug)]
pub struct Socket {
    pub(super) fd: OwnedFd,
    /// Its file, where it is ours to remove.
    path: Option<PathBuf>,
}

impl Socket {
    /// One that was passed: by whoever started this program, or by the program before it in this
    /// process, which may have opened it itself at one of these paths.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`].
    pub fn passed(fd: OwnedFd, own: &[&Path]) -> Result<Self, Error> {
        let listens = socket_acceptconn(&fd).unwrap_or(false);
        if !listens || socket_domain(&fd) != Ok(AddressFamily::UNIX) {
            return Err(Error::Unfit);
        }
        let system = |cause| Error::System { doing: "using", path: "passed".into(), cause };
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true).map_err(system)?;
        // The kernel remembers the first name, and a process keeps its number.
        let name = listener.local_addr().map_err(system)?;
        let path = own.iter().find(|path| name.as_pathname() == Some(&beside(path)));
        let path = path.map(|path| path.to_path_buf());
        Ok(Self { fd: listener.into(), path })
    }

    /// A new one, for this user alone. One that nobody serves any more is replaced.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn bind(path: &Path) -> Result<Self, Error> {
        let shown = shown_path(path);
        let system = |doing| {
            let path = shown.clone();
            move |cause| Error::System { doing, path, cause }
        };
        if let Ok(there) = path.symlink_metadata() {
            if !there.file_type().is_socket() {
                return Err(Error::Taken(shown));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(Error::Served(shown));
            }
        }
        if let Some(above) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(above);
            made.map_err(system("making the directory of"))?;
        }
        // Nobody must get in before its mode is right, so it gets its name last.
        let beside = beside(path);
        let bound = (|| {
            let listener = UnixListener::bind(&beside)?;
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            listen(&listener, BACKLOG)?;
            fs::rename(&beside, path)?;
            Ok(listener)
        })();
        match bound {
            Ok(listener) => Ok(Self { fd: listener.into(), path: Some(path.to_owned()) }),
            Err(cause) => {
                // Nothing may be there.
                let _ = fs::remove_file(&beside);
                Err(system("opening")(cause))
            }
        }
    }

    /// Its file, where it is ours to remove.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

/// The name under which this process opens a socket that will be here.
fn beside(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.new", std::process::id()))
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_served_is_left_alone_and_one_that_is_not_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libvirt/virtlockd-sock");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Socket::bind(&path), Err(Error::Served(_))));
        drop(first);
        let second = Socket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        let elsewhere = dir.path().join("elsewhere");
        let passed = Socket::passed(second.fd, &[&elsewhere, &path]).unwrap();
        assert_eq!(passed.path(), Some(path.as_path()));
        assert_eq!(Socket::passed(passed.fd, &[&elsewhere]).unwrap().path(), None);
        let theirs = UnixListener::bind(&elsewhere).unwrap();
        assert_eq!(Socket::passed(theirs.into(), &[&elsewhere]).unwrap().path(), None);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(Socket::bind(&path), Err(Error::Taken(_))));
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(matches!(Socket::passed(one.into(), &[]), Err(Error::Unfit)));
    }
}

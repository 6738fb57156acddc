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

/// A socket that clients can connect to.
#[derive(Debug)]
pub struct Socket {
    pub(super) fd: OwnedFd,
    /// Its file, where it is ours to remove.
    path: Option<PathBuf>,
}

impl Socket {
    /// One that was passed by whoever started this program.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`].
    pub fn passed(fd: OwnedFd) -> Result<Self, Error> {
        let listens = socket_acceptconn(&fd).unwrap_or(false);
        if !listens || socket_domain(&fd) != Ok(AddressFamily::UNIX) {
            return Err(Error::Unfit);
        }
        let system = |cause| Error::System { doing: "using", path: "passed".into(), cause };
        rustix::io::ioctl_fionbio(&fd, true).map_err(io::Error::from).map_err(system)?;
        Ok(Self { fd, path: None })
    }

    /// The same, where its file is ours to remove.
    #[must_use]
    pub fn at(self, path: PathBuf) -> Self {
        Self { path: Some(path), ..self }
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
        let beside = path.with_extension(format!("{}.new", std::process::id()));
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
        assert!(Socket::passed(second.fd).is_ok());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(Socket::bind(&path), Err(Error::Taken(_))));
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(matches!(Socket::passed(one.into()), Err(Error::Unfit)));
    }
}

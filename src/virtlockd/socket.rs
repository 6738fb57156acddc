//! Listening unix sockets: virtlockd's, at which libvirt connects, and the service's private one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, listen, socket_with,
};

use crate::life::Connection;
use crate::lock::text::escape::{reason, shown_path};

/// The number of connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Why a socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process listens on it.
    #[error("cannot serve socket {0}: another program serves it, perhaps virtlockd")]
    InUse(String),
    /// The passed descriptor is not a listening unix socket.
    #[error("the passed socket is not a listening unix socket")]
    NotListening,
    /// The path is that of a file that is not a socket.
    #[error("cannot serve socket {0}: a file that is not a socket has this name")]
    NotASocket(String),
    /// A system call failed.
    #[error("cannot {doing} socket {path}: {}", reason(cause))]
    System {
        /// The action, which follows "cannot" in the message.
        doing: &'static str,
        /// The path of the socket.
        path: String,
        /// The cause.
        cause: io::Error,
    },
}

impl Error {
    /// Whether the file system is full or read-only.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let Self::System { cause, .. } = self else { return false };
        matches!(cause.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    pub(super) fd: OwnedFd,
    /// The file of the socket, if this process created it.
    file: Option<SocketFile>,
}

/// The file of a socket that this process created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode, since another program may have replaced the file.
    id: (u64, u64),
}

impl SocketFile {
    /// Returns the file that has, or will have, the name `path`, and has the name `current` now.
    fn of(path: &Path, current: &Path) -> io::Result<Self> {
        let metadata = current.symlink_metadata()?;
        Ok(Self { path: path.to_owned(), id: (metadata.dev(), metadata.ino()) })
    }

    /// Removes the file, unless another program has replaced it. Returns whether it was removed.
    ///
    /// # Errors
    ///
    /// The errors of `lstat(2)` and `unlink(2)`.
    pub(super) fn remove(&self) -> io::Result<bool> {
        match Self::of(&self.path, &self.path) {
            Ok(there) if there == *self => fs::remove_file(&self.path).map(|()| true),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Socket {
    /// Returns a socket that was passed by the service manager, or by the program that this one has
    /// replaced in this process. That program may have created the socket at one of `own_paths`.
    ///
    /// # Errors
    ///
    /// [`Error::NotListening`].
    pub fn from_passed(fd: OwnedFd, own_paths: &[&Path]) -> Result<Self, Error> {
        let listens = socket_acceptconn(&fd).unwrap_or(false);
        if !listens || socket_domain(&fd) != Ok(AddressFamily::UNIX) {
            return Err(Error::NotListening);
        }
        let system =
            |cause| Error::System { doing: "use the passed", path: "descriptor".into(), cause };
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true).map_err(system)?;
        // The kernel reports the name at `bind(2)`, which contains the process id.
        let name = listener.local_addr().map_err(system)?;
        let path = own_paths.iter().find(|path| name.as_pathname() == Some(&temporary_path(path)));
        let file = path.filter(|path| is_own(path));
        let file = file.and_then(|path| SocketFile::of(path, path).ok());
        Ok(Self { fd: listener.into(), file })
    }

    /// Creates a socket to which only this user can connect. An existing socket is replaced if no process
    /// listens on it, or only the process `killed`, which was killed but has not exited.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn bind(path: &Path, killed: Option<u32>) -> Result<Self, Error> {
        let shown = shown_path(path);
        let system = |doing| {
            let path = shown.clone();
            move |cause| Error::System { doing, path, cause }
        };
        if let Ok(there) = path.symlink_metadata() {
            if !there.file_type().is_socket() {
                return Err(Error::NotASocket(shown));
            }
            if is_in_use(path, killed) {
                return Err(Error::InUse(shown));
            }
        }
        if let Some(parent) = path.parent() {
            let created = fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
            created.map_err(system("create the directory of"))?;
        }
        // It is renamed last, so that no client can connect before the mode is set.
        let temporary = temporary_path(path);
        let bound = (|| {
            let listener = UnixListener::bind(&temporary)?;
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            listen(&listener, BACKLOG)?;
            let file = SocketFile::of(path, &temporary)?;
            fs::rename(&temporary, path)?;
            Ok((listener, file))
        })();
        match bound {
            Ok((listener, file)) => Ok(Self { fd: listener.into(), file: Some(file) }),
            Err(cause) => {
                // It may not exist.
                let _ = fs::remove_file(&temporary);
                Err(system("open")(cause))
            }
        }
    }

    /// Returns a duplicate of the descriptor, as a listener.
    ///
    /// # Errors
    ///
    /// The errors of `dup(2)`.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.fd.try_clone().map(UnixListener::from)
    }

    /// Returns the file of the socket, if this process created it.
    pub(super) fn file(&self) -> Option<&SocketFile> {
        self.file.as_ref()
    }
}

/// Whether this process listens on the socket at `path`. A process keeps its id over `execve(2)`. Returns
/// `false` if the queue of the socket is full, as this is unknown then; its file is never removed.
fn is_own(path: &Path) -> bool {
    listening_process(path).is_ok_and(|pid| pid == Some(std::process::id()))
}

/// Whether a process other than `killed` listens on the socket at `path`. If the queue of the socket is
/// full, the process is assumed to be `killed`, if that is given.
fn is_in_use(path: &Path, killed: Option<u32>) -> bool {
    match listening_process(path) {
        Ok(pid) => killed.is_none() || pid != killed,
        Err(Errno::AGAIN) => killed.is_none(),
        Err(_) => false,
    }
}

/// Returns the process that called `listen(2)` on the socket at `path` (`SO_PEERCRED`, unix(7)); `None`
/// for a process of another pid namespace. Does not wait if the queue of the socket is full.
fn listening_process(path: &Path) -> Result<Option<u32>, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let peer = Connection::from_fd(socket).peer();
    Ok(peer.ok().map(|peer| peer.pid).filter(|pid| *pid != 0))
}

/// Returns the path at which this process creates a socket, before it is renamed to `path`.
fn temporary_path(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.new", std::process::id()))
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_in_use_is_kept_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libvirt/virtlockd-sock");
        let first = Socket::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Socket::bind(&path, None), Err(Error::InUse(_))));
        assert!(matches!(Socket::bind(&path, Some(u32::MAX)), Err(Error::InUse(_))));
        // This process counts as killed, so its socket is stale.
        Socket::bind(&path, Some(std::process::id())).unwrap();
        drop(first);
        let second = Socket::bind(&path, None).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        let second_file = second.file().cloned();
        let elsewhere = dir.path().join("elsewhere");
        let passed = Socket::from_passed(second.fd, &[&elsewhere, &path]).unwrap();
        assert_eq!(passed.file(), second_file.as_ref());
        assert_eq!(Socket::from_passed(passed.fd, &[&elsewhere]).unwrap().file(), None);
        let theirs = UnixListener::bind(&elsewhere).unwrap();
        assert_eq!(Socket::from_passed(theirs.into(), &[&elsewhere]).unwrap().file(), None);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(Error::NotASocket(_))));
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(matches!(Socket::from_passed(one.into(), &[]), Err(Error::NotListening)));
    }

    #[test]
    fn a_file_that_another_program_replaced_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("virtlockd-sock");
        let socket = Socket::bind(&path, None).unwrap();
        let file = socket.file().cloned().unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!file.remove().unwrap());
        // The successor in this process recognizes the socket by the name at `bind(2)`.
        fs::write(&path, "").unwrap();
        assert!(!file.remove().unwrap());
        assert_eq!(Socket::from_passed(socket.fd, &[&path]).unwrap().file(), None);
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        let socket = Socket::bind(&path, None).unwrap();
        assert!(socket.file().unwrap().remove().unwrap());
        assert!(!path.exists());
    }
}

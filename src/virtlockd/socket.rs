//! The socket on which libvirt expects virtlockd.

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
use crate::lock::printable::{reason, shown_path};

/// How many clients may wait to be let in.
const BACKLOG: i32 = 4096;

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else serves it.
    #[error("cannot serve socket {0}: another program serves it, perhaps virtlockd")]
    Served(String),
    /// What was passed is no listening socket.
    #[error("the passed socket is not a listening unix socket")]
    Unfit,
    /// Something else is in its place.
    #[error("cannot serve socket {0}: a file that is not a socket has this name")]
    Taken(String),
    /// The system failed at something.
    #[error("cannot {doing} socket {path}: {}", reason(cause))]
    System {
        /// What failed, in words that follow "cannot".
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
    /// Its file, where this process made it.
    file: Option<SocketFile>,
}

/// The file of a socket that this process made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: another program may have put its own socket in this place since.
    id: (u64, u64),
}

impl SocketFile {
    /// Returns the file at `path`, which is there under the name `now`.
    fn made(path: &Path, now: &Path) -> io::Result<Self> {
        let metadata = now.symlink_metadata()?;
        Ok(Self { path: path.to_owned(), id: (metadata.dev(), metadata.ino()) })
    }

    /// Removes the file. Returns whether it was still there; a file that another program has put in
    /// its place stays.
    ///
    /// # Errors
    ///
    /// Those of `lstat(2)` and `unlink(2)`.
    pub(super) fn remove(&self) -> io::Result<bool> {
        match Self::made(&self.path, &self.path) {
            Ok(there) if there == *self => fs::remove_file(&self.path).map(|()| true),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
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
        let system =
            |cause| Error::System { doing: "use the passed", path: "descriptor".into(), cause };
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true).map_err(system)?;
        // The kernel remembers the first name, and a process keeps its number.
        let name = listener.local_addr().map_err(system)?;
        let path = own.iter().find(|path| name.as_pathname() == Some(&beside(path)));
        let file = path.filter(|path| leads_here(path));
        let file = file.and_then(|path| SocketFile::made(path, path).ok());
        Ok(Self { fd: listener.into(), file })
    }

    /// Binds a socket that only this user can connect to. A socket that no process serves any more is
    /// replaced, also where the process `gone`, which was killed, still has it open.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn bind(path: &Path, gone: Option<u32>) -> Result<Self, Error> {
        let shown = shown_path(path);
        let system = |doing| {
            let path = shown.clone();
            move |cause| Error::System { doing, path, cause }
        };
        if let Ok(there) = path.symlink_metadata() {
            if !there.file_type().is_socket() {
                return Err(Error::Taken(shown));
            }
            if is_served(path, gone) {
                return Err(Error::Served(shown));
            }
        }
        if let Some(above) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(above);
            made.map_err(system("create the directory of"))?;
        }
        // Nobody must get in before its mode is right, so it gets its name last.
        let beside = beside(path);
        let bound = (|| {
            let listener = UnixListener::bind(&beside)?;
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            listen(&listener, BACKLOG)?;
            let file = SocketFile::made(path, &beside)?;
            fs::rename(&beside, path)?;
            Ok((listener, file))
        })();
        match bound {
            Ok((listener, file)) => Ok(Self { fd: listener.into(), file: Some(file) }),
            Err(cause) => {
                // Nothing may be there.
                let _ = fs::remove_file(&beside);
                Err(system("open")(cause))
            }
        }
    }

    /// A further descriptor of it, from which clients can be accepted.
    ///
    /// # Errors
    ///
    /// Those of dup(2).
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.fd.try_clone().map(UnixListener::from)
    }

    /// Its file, where this process made it.
    pub(super) fn file(&self) -> Option<&SocketFile> {
        self.file.as_ref()
    }
}

/// Whether the socket at this path is one on which this process listens. A process keeps its number
/// over `execve(2)`. Where the queue of the socket is full this is not known, and its file stays.
fn leads_here(path: &Path) -> bool {
    listener_of(path).is_ok_and(|pid| pid == Some(std::process::id()))
}

/// Whether a process other than `gone` listens on the socket at this path. Where the queue of the
/// socket is full, that may be one that was killed, if there is such a one.
fn is_served(path: &Path, gone: Option<u32>) -> bool {
    match listener_of(path) {
        Ok(pid) => gone.is_none() || pid != gone,
        Err(Errno::AGAIN) => gone.is_none(),
        Err(_) => false,
    }
}

/// The process that called `listen(2)` on the socket at this path, which the kernel tells a client
/// (`SO_PEERCRED`, unix(7)); `None` for a process of another pid namespace. Does not wait where the
/// queue of the socket is full.
fn listener_of(path: &Path) -> Result<Option<u32>, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let peer = Connection::of(socket).peer();
    Ok(peer.ok().map(|peer| peer.pid).filter(|pid| *pid != 0))
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
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn one_that_is_served_is_left_alone_and_one_that_is_not_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libvirt/virtlockd-sock");
        let first = Socket::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Socket::bind(&path, None), Err(Error::Served(_))));
        assert!(matches!(Socket::bind(&path, Some(u32::MAX)), Err(Error::Served(_))));
        // Whatever happens to it, its process counts as gone.
        Socket::bind(&path, Some(std::process::id())).unwrap();
        drop(first);
        let second = Socket::bind(&path, None).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        let second_file = second.file().cloned();
        let elsewhere = dir.path().join("elsewhere");
        let passed = Socket::passed(second.fd, &[&elsewhere, &path]).unwrap();
        assert_eq!(passed.file(), second_file.as_ref());
        assert_eq!(Socket::passed(passed.fd, &[&elsewhere]).unwrap().file(), None);
        let theirs = UnixListener::bind(&elsewhere).unwrap();
        assert_eq!(Socket::passed(theirs.into(), &[&elsewhere]).unwrap().file(), None);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(Error::Taken(_))));
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(matches!(Socket::passed(one.into(), &[]), Err(Error::Unfit)));
    }

    #[test]
    fn a_file_that_another_program_put_in_its_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("virtlockd-sock");
        let socket = Socket::bind(&path, None).unwrap();
        let file = socket.file().cloned().unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!file.remove().unwrap());
        // The name by which it was bound first is what the successor in this process knows it by.
        fs::write(&path, "").unwrap();
        assert!(!file.remove().unwrap());
        assert_eq!(Socket::passed(socket.fd, &[&path]).unwrap().file(), None);
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        let socket = Socket::bind(&path, None).unwrap();
        assert!(socket.file().unwrap().remove().unwrap());
        assert!(!path.exists());
    }
}

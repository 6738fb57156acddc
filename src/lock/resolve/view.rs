//! Compares where names lead for a caller and for the service.
//!
//! A name is looked up in the mount namespace and the root directory of a process. A caller in a
//! container, or in a unit with `BindPaths=` or `PrivateTmp=`, may mean another file than the one
//! that the service finds. So the inspector looks names up as the caller does, and the service
//! compares.
//!
//! This module has the query, its answer and the comparison; it opens no file.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

use crate::lock::text::errno::os_error_description;
use crate::lock::text::escape::shown_path;

/// The maximum number of paths of one query.
const PATHS_MAX: usize = 64;
/// The maximum number of their bytes in all; a single path may have more.
const BYTES_MAX: usize = 16 * 1024;

/// The properties that are equal for two names that lead to one file.
///
/// A block device has a node in the `/dev` of each container; the device number is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    /// `st_dev`; 0 for a block device.
    dev: u64,
    /// `st_ino`; 0 for a block device.
    ino: u64,
    /// `st_rdev` of a block device; 0 for any other file.
    device: u64,
}

impl FileId {
    /// Returns the id of a file.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Self { dev: 0, ino: 0, device: stat.st_rdev },
            _ => Self { dev: stat.st_dev, ino: stat.st_ino, device: 0 },
        }
    }

    /// Returns the id of a directory or regular file by its device and inode.
    #[must_use]
    pub fn of_inode((dev, ino): (u64, u64)) -> Self {
        Self { dev, ino, device: 0 }
    }
}

/// A query for the inspector: where names lead for a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The process.
    pub pid: u32,
    /// The names; looked up only if they may lead elsewhere than for the service.
    paths: Vec<Spelling>,
}

impl Look {
    /// Returns a query without names: only whether names lead to the same files for a process and
    /// for the service.
    #[must_use]
    pub fn at(pid: u32) -> Self {
        Self { pid, paths: Vec::new() }
    }

    /// Splits the names of a request into queries whose messages have a bounded length.
    #[must_use]
    pub fn for_paths(pid: u32, paths: &[&Path]) -> Vec<Self> {
        let mut all = vec![Self::at(pid)];
        let mut bytes = 0;
        for path in paths {
            let length = path.as_os_str().len();
            let full = all.last().is_none_or(|look| {
                let count = look.paths.len();
                count >= PATHS_MAX || (count > 0 && bytes + length > BYTES_MAX)
            });
            if full {
                all.push(Self::at(pid));
                bytes = 0;
            }
            bytes += length;
            if let Some(look) = all.last_mut() {
                look.paths.push(Spelling::of(path));
            }
        }
        all
    }

    /// Returns the names; `None` for an invalid one.
    pub fn paths(&self) -> impl Iterator<Item = Option<PathBuf>> {
        self.paths.iter().map(Spelling::path)
    }
}

/// The bytes of a path as text: each byte is the character of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Spelling(String);

impl Spelling {
    fn of(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().iter().copied().map(char::from).collect())
    }

    fn path(&self) -> Option<PathBuf> {
        let bytes = self.0.chars().map(|c| u8::try_from(c).ok()).collect::<Option<Vec<u8>>>()?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
    }
}

/// The answer: the view of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Whether the process has the pid namespace of the service; `None` if unknown.
    pub same_pids: Option<bool>,
    /// Where names lead for it.
    pub names: Names,
}

/// Where names lead for a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Names {
    /// To the same files as for the service, or for the host.
    Same,
    /// To these files, in the order of the query; an error number for a name that leads to none.
    Other(Vec<Result<FileId, i32>>),
    /// The inspector has no permission to examine the process: an error number.
    Hidden(i32),
    /// Examining the process has blocked before.
    Hangs,
}

/// A query for the inspector: the process that has this number in another process's pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// The process in whose pid namespace the number is valid.
    pub by: u32,
    /// The number.
    pub number: u32,
}

/// The kind of file that a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A disk, which can also be passed by an open descriptor.
    Disk,
    /// The directory of a lockspace, which cannot be passed by a descriptor.
    Directory,
}

impl Kind {
    fn advice(self) -> &'static str {
        match self {
            Self::Disk => "pass an open descriptor instead of the name",
            Self::Directory => "call from the mount namespace of vmlockd or of the host",
        }
    }
}

/// A name that is not proven to lead to the same file for the caller and for the service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name} {} (pid {pid}){}; {}",
    why.before(),
    why.after(),
    kind.advice()
)]
pub struct ForeignName {
    /// The name, for display.
    pub name: String,
    /// The caller's process; 0 if it is unknown.
    pub pid: u32,
    /// The kind of file that it should stand for.
    pub kind: Kind,
    /// Why it is not proven.
    pub why: Why,
}

impl ForeignName {
    /// Compares where a name leads for a caller with where it leads for the service.
    ///
    /// # Errors
    ///
    /// [`ForeignName`] if they are not one file.
    pub fn compare(
        (path, kind): (&Path, Kind),
        pid: u32,
        ours: FileId,
        theirs: Result<FileId, i32>,
    ) -> Result<(), Self> {
        let why = match theirs {
            Ok(theirs) if theirs == ours => return Ok(()),
            Ok(_) => Why::OtherFile,
            Err(number) => Why::NoFile(number),
        };
        Err(Self::new(path.as_os_str(), kind, pid, why))
    }

    /// Returns the error for a name, with this reason.
    #[must_use]
    pub fn new(name: impl AsRef<OsStr>, kind: Kind, pid: u32, why: Why) -> Self {
        Self { name: shown_path(Path::new(name.as_ref())), pid, kind, why }
    }
}

/// Why a name is not proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It leads to another file for the caller.
    OtherFile,
    /// It cannot be looked up as the caller does; with the error number.
    NoFile(i32),
    /// It may lead to a file for the caller, and leads to none for the service.
    MissingHere,
    /// The caller's view is unknown.
    Unknown(String),
}

impl Why {
    fn before(&self) -> &'static str {
        match self {
            Self::OtherFile => {
                "leads to another file in the mount namespace of vmlockd than in that of the caller"
            }
            Self::NoFile(_) => {
                "cannot be looked up in the mount namespace of the caller, which is not that of \
                 vmlockd"
            }
            Self::MissingHere => {
                "does not exist in the mount namespace of vmlockd, which is not that of the caller"
            }
            Self::Unknown(_) => {
                "cannot be compared with what it leads to in the mount namespace of the caller"
            }
        }
    }

    fn after(&self) -> String {
        match self {
            Self::OtherFile | Self::MissingHere => String::new(),
            Self::NoFile(number) => format!(": {}", os_error_description(*number)),
            Self::Unknown(why) => format!(": {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_any_bytes_round_trip() {
        let odd = Path::new(OsStr::from_bytes(b"/a\xff\"\n\\\xc3\xa4"));
        let look = Look::for_paths(7, &[odd, Path::new("/b")]).remove(0);
        let json = serde_json::to_string(&look).unwrap();
        let again: Look = serde_json::from_str(&json).unwrap();
        let paths: Vec<_> = again.paths().map(Option::unwrap).collect();
        assert_eq!((again.pid, &*paths[0], &*paths[1]), (7, odd, Path::new("/b")));
    }

    #[test]
    fn the_length_of_a_query_is_bounded() {
        let long = PathBuf::from(format!("/{}", "\u{1}".repeat(4000)));
        let paths = vec![long.as_path(); 100];
        let looks = Look::for_paths(7, &paths);
        assert_eq!(looks.iter().map(|look| look.paths.len()).sum::<usize>(), 100);
        for look in &looks {
            assert!(serde_json::to_vec(look).unwrap().len() < 110 * 1024);
        }
        let paths = vec![Path::new("/a"); 100];
        assert_eq!(Look::for_paths(7, &paths).len(), 2);
        assert_eq!(Look::for_paths(7, &[]), [Look::at(7)]);
    }

    #[test]
    fn only_equal_file_ids_are_accepted() {
        let a = FileId::of_inode((1, 2));
        let disk = (Path::new("/srv/a\n"), Kind::Disk);
        assert_eq!(ForeignName::compare(disk, 7, a, Ok(a)), Ok(()));
        let refused = ForeignName::compare(disk, 7, a, Ok(FileId::of_inode((1, 3)))).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "/srv/a\\n leads to another file in the mount namespace of vmlockd than in that of the \
             caller (pid 7); pass an open descriptor instead of the name"
        );
        let leases = (Path::new("/srv/leases"), Kind::Directory);
        let refused = ForeignName::compare(leases, 7, a, Err(2)).unwrap_err().to_string();
        assert!(refused.contains("(pid 7): No such file or directory; call from"), "{refused}");
    }
}

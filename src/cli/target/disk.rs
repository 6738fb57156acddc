//! `PATH:MODE`, and what is sent for it: a name or an open descriptor. A lease always goes by its
//! name, which is `lease:` and a path.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use nix::fcntl::OFlag;

use crate::cli::connection::Link;
use crate::cli::error::{Error, cause};
use crate::cli::target::hints;
use crate::client::Options;
use crate::lock::Mode;
use crate::lock::printable::shown_path;

/// The most descriptors in one message that every bus carries.
pub(crate) const FILES_MAX: usize = 16;

/// A disk or a lease, and how it shall be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// As it was written; may be relative.
    pub(crate) path: PathBuf,
    /// Exclusively, unless said otherwise.
    pub(crate) mode: Mode,
}

impl Disk {
    /// Reads `PATH`, `PATH:shared` or `PATH:exclusive`. Whatever else follows a colon belongs to
    /// the path; a common other spelling of a mode is an error, unless a file has this name.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let suffixed = [Mode::Shared, Mode::Exclusive].into_iter().find_map(|mode| {
            let path = text.as_bytes().strip_suffix(mode.as_str().as_bytes())?;
            Some((path.strip_suffix(b":")?, mode))
        });
        let (path, mode) = suffixed.unwrap_or((text.as_bytes(), Mode::Exclusive));
        if path.is_empty() || path == LEASE.as_bytes() {
            return Err("the path is empty".to_owned());
        }
        if in_lease(Path::new(OsStr::from_bytes(path))).is_none() {
            hints::check_disk(Path::new(OsStr::from_bytes(path)))?;
        }
        Ok(Self { path: PathBuf::from(OsStr::from_bytes(path)), mode })
    }

    /// The same for clap.
    pub(crate) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|text: OsString| Self::parse(&text))
    }

    /// The same, of leases: these need not say that they are some.
    pub(crate) fn lease_parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|text: OsString| Self::parse(as_lease(text).as_os_str()))
    }
}

/// How the names of leases begin.
pub(crate) const LEASE: &str = "lease:";

/// The path in the name of a lease; `None` where it is none.
fn in_lease(path: &Path) -> Option<&Path> {
    let rest = path.as_os_str().as_bytes().strip_prefix(LEASE.as_bytes())?;
    Some(Path::new(OsStr::from_bytes(rest)))
}

/// What can only be a lease, by its name.
pub(crate) fn as_lease(text: OsString) -> OsString {
    if in_lease(Path::new(&text)).is_some() {
        return text;
    }
    let mut name = OsString::from(LEASE);
    name.push(text);
    name
}

/// Whether this is how the service names a disk that was shown by a descriptor without a name.
pub(crate) fn is_nameless(path: &Path) -> bool {
    let name = path.as_os_str().as_bytes();
    name.starts_with(b"fd:inode:") || name.starts_with(b"fd:block:")
}

/// An absolute path, otherwise as it was written: in a hashed lockspace the letters decide, so
/// symlinks stay. The name of a lease has one in it.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    if let Some(path) = in_lease(path) {
        return Ok(as_lease(absolute(path)?.into_os_string()).into());
    }
    if path.is_absolute() || is_nameless(path) {
        return Ok(path.to_owned());
    }
    // Of a relative path nobody else knows the letters, so it may lose its dots.
    let here = env::current_dir().map_err(|e| Error::system("find the current directory", e))?;
    path::absolute(here.join(path))
        .map_err(|e| Error::system(&format!("resolve {}", shown_path(path)), e))
}

/// A path as it goes over the bus, which knows UTF-8 only.
pub(crate) fn name(path: &Path) -> Result<String, Error> {
    let name = absolute(path)?.into_os_string().into_string();
    name.map_err(|name| {
        let name = shown_path(Path::new(&name));
        Error::Failed(format!(
            "the path {name} is not UTF-8, so it cannot be sent; give a link to it that is"
        ))
    })
}

/// What is asked for: all of it or nothing.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// By name.
    pub(crate) names: Vec<(String, &'static str)>,
    /// By open descriptor.
    pub(crate) files: Vec<(OwnedFd, &'static str)>,
    /// The names by which these were opened.
    pub(crate) opened: Vec<Opened>,
    /// Also disks that this host uses itself.
    pub(crate) in_use: bool,
}

impl Wanted {
    /// Decides for each disk how it is asked for, and opens what has to be open.
    pub(crate) fn new(link: &Link, disks: &[Disk]) -> Result<Self, Error> {
        let mut wanted = Self::default();
        for Disk { path, mode } in disks {
            let path = absolute(path)?;
            let nameless = path.to_str().is_none();
            let room = wanted.files.len() < FILES_MAX;
            let is_lease = in_lease(&path).is_some();
            let file = if (nameless || !link.by_name()) && room && !is_lease {
                open(&path, *mode)?
            } else {
                None
            };
            match file {
                Some(file) => {
                    wanted.opened.extend(Opened::new(&path, &file));
                    wanted.files.push((file.into(), mode.as_str()));
                }
                None => wanted.names.push((name(&path)?, mode.as_str())),
            }
        }
        Ok(wanted)
    }

    /// Adds what is said besides.
    pub(crate) fn say_in_use(&self, options: &mut Options<'_>) {
        if self.in_use {
            options.insert("in-use", true.into());
        }
    }

    /// What is asked for by name, as it is sent.
    pub(crate) fn names(&self) -> Vec<(&str, &str)> {
        self.names.iter().map(|(name, mode)| (name.as_str(), *mode)).collect()
    }
}

/// A name, and the file that it led to when it was opened.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    path: PathBuf,
    node: (u64, u64),
}

impl Opened {
    fn new(path: &Path, file: &File) -> Option<Self> {
        let node = file.metadata().ok().map(|found| (found.dev(), found.ino()))?;
        Some(Self { path: path.to_owned(), node })
    }

    /// Whether the name leads to another file, or to none. Not where that can't be told.
    pub(crate) fn is_replaced(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) != self.node,
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
        }
    }
}

/// Opens a disk, as proof that we may have it; `None` where we may not: then its name is what is
/// left, and polkit judges.
fn open(path: &Path, mode: Mode) -> Result<Option<File>, Error> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing(format!("disk {} does not exist", shown_path(path))));
        }
        Err(_) => return Ok(None),
    };
    if found.is_dir() {
        return Err(is_directory(path));
    }
    // Opening some kinds of device has consequences.
    if !found.is_file() && !found.file_type().is_block_device() {
        let path = shown_path(path);
        return Err(Error::Failed(format!(
            "{path} is neither a regular file nor a block device, so it cannot be a disk"
        )));
    }
    let open = |write| open_for(path, write).ok();
    Ok(match mode {
        Mode::Exclusive | Mode::None => open(true),
        // Reading shows enough for a shared lock on one's own file, writing on any. Both uids are
        // those of this user namespace.
        Mode::Shared if found.uid() == nix::unistd::geteuid().as_raw() => open(false),
        Mode::Shared => open(true).or_else(|| open(false)),
    })
}

/// Opens a disk for reading, and for writing if `write` is set.
fn open_for(path: &Path, write: bool) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    OpenOptions::new().read(true).write(write).custom_flags(flags.bits()).open(path)
}

/// Returns why this user cannot open a disk in the way that would permit it to lock the disk.
/// `None` where permissions are not the cause, and for a lease.
pub(crate) fn denial(disk: &Disk) -> Option<String> {
    let path = absolute(&disk.path).ok()?;
    if in_lease(&path).is_some() || is_nameless(&path) {
        return None;
    }
    let is_denied = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    };
    let describe = |error: &io::Error, how: &str| {
        let shown = shown_path(&path);
        is_denied(error).then(|| format!("cannot open {shown}{how}: {}", cause(error)))
    };
    let found = match fs::metadata(&path) {
        Ok(found) => found,
        Err(error) => return describe(&error, ""),
    };
    if !found.is_file() && !found.file_type().is_block_device() {
        return None;
    }
    let reads = disk.mode == Mode::Shared && found.uid() == nix::unistd::geteuid().as_raw();
    let error = open_for(&path, !reads).err()?;
    describe(&error, if reads { " for reading" } else { " for writing" })
}

/// The error for a directory in place of a disk; `None` for any other path.
pub(crate) fn directory(path: &Path) -> Option<Error> {
    path.is_dir().then(|| is_directory(path))
}

fn is_directory(path: &Path) -> Error {
    Error::Usage(format!("'{}' is a directory; give the path of a disk", shown_path(path)))
}

/// Opens a disk only to ask about it.
pub(crate) fn open_to_ask(path: &Path) -> Option<File> {
    if in_lease(path).is_some() {
        return None;
    }
    let found = fs::metadata(path).ok()?;
    if !found.is_file() && !found.file_type().is_block_device() {
        return None;
    }
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(text: &str) -> (String, Mode) {
        let disk = Disk::parse(OsStr::new(text)).unwrap();
        (disk.path.into_os_string().into_string().unwrap(), disk.mode)
    }

    #[test]
    fn only_two_words_are_modes() {
        use Mode::{Exclusive, Shared};
        for (text, path, mode) in [
            ("/a.img", "/a.img", Exclusive),
            ("/a.img:shared", "/a.img", Shared),
            ("/a.img:exclusive", "/a.img", Exclusive),
            ("a:sharedx", "a:sharedx", Exclusive),
            ("shared", "shared", Exclusive),
            ("lease:/a/b:shared", "lease:/a/b", Shared),
            ("/dev/disk/by-path/pci-0000:00:1f.2", "/dev/disk/by-path/pci-0000:00:1f.2", Exclusive),
        ] {
            assert_eq!(disk(text), (path.to_owned(), mode), "{text}");
        }
        assert!(Disk::parse(OsStr::new("")).is_err());
        for text in [":shared", "a:share", "a:Shared", "a:shared:exclusive", "a:exclusive:shared"] {
            assert!(Disk::parse(OsStr::new(text)).is_err(), "{text}");
        }
        assert_eq!(Disk::parse(OsStr::from_bytes(b"/\xff:shared")).unwrap().mode, Shared);
    }

    #[test]
    fn a_lease_need_not_say_that_it_is_one() {
        for text in ["/srv/a", "lease:/srv/a"] {
            assert_eq!(as_lease(text.into()), "lease:/srv/a");
        }
    }

    #[test]
    fn paths_become_absolute_and_nothing_else() {
        let here = env::current_dir().unwrap();
        assert_eq!(absolute(Path::new("./a.img")).unwrap(), here.join("a.img"));
        assert_eq!(absolute(Path::new("../a.img")).unwrap(), here.join("../a.img"));
        for same in ["/a/./b", "//a", "/a/../b", "/a/"] {
            assert_eq!(absolute(Path::new(same)).unwrap().as_os_str(), same);
        }
        assert_eq!(absolute(Path::new("lease:/a//b%25")).unwrap(), Path::new("lease:/a//b%25"));
        let lease = absolute(Path::new("lease:locks/b")).unwrap();
        assert_eq!(lease.to_str().unwrap(), format!("lease:{}", here.join("locks/b").display()));
        assert!(name(Path::new(OsStr::from_bytes(b"/\xff"))).is_err());
    }

    #[test]
    fn opening_is_proof_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.img");
        fs::write(&image, "").unwrap();
        assert!(open(&image, Mode::Exclusive).unwrap().is_some());
        assert!(open(&image, Mode::Shared).unwrap().is_some());
        assert!(matches!(open(&dir.path().join("b"), Mode::Shared), Err(Error::Missing(_))));
        assert!(matches!(open(dir.path(), Mode::Shared), Err(Error::Usage(_))));
        assert!(matches!(open(Path::new("/dev/null"), Mode::Shared), Err(Error::Failed(_))));
        assert!(open_to_ask(&image).is_some() && open_to_ask(dir.path()).is_none());
    }
}

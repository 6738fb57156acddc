//! Arguments of the form `PATH[:MODE]`: a disk or a lease to lock.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::cli::target::disk_name::{LEASE_PREFIX, lease_path, with_lease_prefix};
use crate::cli::target::hints;
use crate::lock::Mode;

/// A disk or a lease, and the mode of its lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The path as it was written; may be relative.
    pub(crate) path: PathBuf,
    /// The mode; exclusive by default.
    pub(crate) mode: Mode,
}

impl Disk {
    /// Parses `PATH`, `PATH:shared` or `PATH:exclusive`. Any other text after a colon belongs to
    /// the path. A common misspelling of a mode is an error, unless a file has this name.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let suffixed = [Mode::Shared, Mode::Exclusive].into_iter().find_map(|mode| {
            let path = text.as_bytes().strip_suffix(mode.as_str().as_bytes())?;
            Some((path.strip_suffix(b":")?, mode))
        });
        let (path, mode) = suffixed.unwrap_or((text.as_bytes(), Mode::Exclusive));
        if path.is_empty() || path == LEASE_PREFIX.as_bytes() {
            return Err("the path is empty".to_owned());
        }
        if lease_path(Path::new(OsStr::from_bytes(path))).is_none() {
            hints::check_disk(Path::new(OsStr::from_bytes(path)))?;
        }
        Ok(Self { path: PathBuf::from(OsStr::from_bytes(path)), mode })
    }

    /// Returns a parser of disks for clap.
    pub(crate) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|text: OsString| Self::parse(&text))
    }

    /// Returns a parser of leases for clap. The prefix `lease:` may be missing.
    pub(crate) fn lease_parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new()
            .try_map(|text: OsString| Self::parse(with_lease_prefix(text).as_os_str()))
    }
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
}

//! The names by which callers request resources: the path of a disk, or a lease.
//!
//! A disk may also be passed as an open descriptor, see [`crate::lock::resolve`].

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use super::input_error::InputError;
use crate::lock::model::lease_name::LeaseName;
use crate::lock::text::escape::{shown, shown_path};

/// The maximum length of a path in the kernel, in bytes: `PATH_MAX` without the final NUL.
const PATH_MAX: usize = 4095;

/// The name of a disk or a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A disk.
    Disk(DiskPath),
    /// A lease.
    Lease(LeaseName),
}

impl Resource {
    /// Parses a name as callers send it. Opens no file.
    ///
    /// # Errors
    ///
    /// [`InputError::BadPath`].
    pub fn parse(text: &str) -> Result<Self, InputError> {
        match LeaseName::parse(text) {
            Some(lease) => lease.map(Self::Lease),
            None => DiskPath::parse(text).map(Self::Disk),
        }
    }

    /// Returns the name, exactly as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            // It was parsed from UTF-8, so this never uses the default.
            Self::Disk(path) => path.as_path().to_str().unwrap_or_default(),
            Self::Lease(lease) => lease.as_str(),
        }
    }
}

/// An absolute path exactly as a caller sent it: in a hashed lockspace, every byte counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DiskPath(PathBuf);

impl DiskPath {
    /// Parses a path as callers send it. Opens no file.
    ///
    /// # Errors
    ///
    /// [`InputError::BadPath`] for empty, relative and overlong paths.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        let why = if text.is_empty() {
            "is empty"
        } else if !text.starts_with('/') {
            "is not absolute"
        } else if text.len() > PATH_MAX {
            "is longer than 4095 bytes"
        } else if text.contains('\0') {
            "has a NUL in it"
        } else {
            return Ok(Self(PathBuf::from(text)));
        };
        Err(InputError::BadPath { path: head(text), why })
    }

    /// Parses a path that need not be UTF-8.
    ///
    /// # Errors
    ///
    /// As for [`Self::parse`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InputError> {
        // All checks are on ASCII characters, so a lossy conversion does not affect them.
        let checked = Self::parse(&String::from_utf8_lossy(bytes))?;
        if str::from_utf8(bytes).is_ok() {
            return Ok(checked);
        }
        if bytes.len() > PATH_MAX {
            let path = head(&String::from_utf8_lossy(bytes));
            return Err(InputError::BadPath { path, why: "is longer than 4095 bytes" });
        }
        Ok(Self(PathBuf::from(OsString::from_vec(bytes.to_vec()))))
    }

    /// Returns the path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Returns the path escaped, for display.
    #[must_use]
    pub fn shown(&self) -> String {
        shown_path(&self.0)
    }

    /// Returns the beginning of the path, for an error message about it.
    pub(in crate::lock) fn head(&self) -> String {
        head(&self.0.to_string_lossy())
    }

    /// Whether it contains `..`, which could mislead a rule that compares the text.
    #[must_use]
    pub fn has_parent_component(&self) -> bool {
        self.0.components().any(|part| part == Component::ParentDir)
    }
}

/// Returns the beginning of a text, for an error message about it.
fn head(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", shown(&text[..end])),
        None => shown(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_of_bounded_length_are_accepted() {
        for (path, word) in [
            ("", "empty"),
            ("a.img", "absolute"),
            ("./a.img", "absolute"),
            (&format!("/{}", "x".repeat(5000)), "longer"),
            ("/a\0b", "NUL"),
        ] {
            let error = DiskPath::parse(path).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert!(error.len() < 200, "{error}");
        }
        assert!(DiskPath::parse("lease:/a/b/c").is_err());
        assert_eq!(DiskPath::parse("//a/./b").unwrap().as_path().as_os_str(), "//a/./b");
    }

    #[test]
    fn a_path_need_not_be_utf8() {
        let path = DiskPath::from_bytes(b"/a\xff").unwrap();
        assert_eq!(path.as_path().as_os_str().len(), 3);
        for wrong in [&b"a\xff"[..], b"", b"/a\0\xff"] {
            assert!(DiskPath::from_bytes(wrong).is_err());
        }
    }

    #[test]
    fn the_prefix_distinguishes_disks_and_leases() {
        for text in ["/srv/a.img", "lease:/srv/leases/a"] {
            let resource = Resource::parse(text).unwrap();
            assert_eq!(resource.as_str(), text);
            assert_eq!(matches!(resource, Resource::Lease(_)), text.starts_with("lease:"));
        }
        assert!(Resource::parse("leases:/a").is_err());
    }

    #[test]
    fn parent_components_are_detected() {
        assert!(DiskPath::parse("/srv/../etc/shadow").unwrap().has_parent_component());
        assert!(!DiskPath::parse("/srv/..a/b..").unwrap().has_parent_component());
    }
}

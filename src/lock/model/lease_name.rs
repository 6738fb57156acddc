//! The name of a lease: a key in a directory, with any meaning.
//!
//! It has the form `lease:<directory>/<key>`. The key is the last component, so a slash in it is
//! written `%2F`, and a percent sign `%25`. libvirt's `<lease>` has the directory in two parts, its
//! `path` and its `lockspace`.

use std::path::{Path, PathBuf};

use super::input_error::InputError;
use crate::lock::model::disk_path::DiskPath;
use crate::lock::text::escape::{shown, spelt_path};

/// The longest name of a file (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// The prefix of the name of a lease.
const SCHEME: &str = "lease:";

/// A lease by its name; it need not exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseName {
    given: String,
    directory: PathBuf,
    key: String,
}

impl LeaseName {
    /// Parses a name as callers send it. Opens no file. `None` if it is not the name of a lease.
    ///
    /// # Errors
    ///
    /// [`InputError::BadPath`] for a directory that is invalid, or contains `..`; [`InputError::BadKey`] for
    /// a key that is not the name of a single file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Result<Self, InputError>> {
        text.strip_prefix(SCHEME).map(|rest| Self::of(text, rest))
    }

    fn of(text: &str, rest: &str) -> Result<Self, InputError> {
        // The limits of a path apply to the whole, so that it can be displayed.
        let whole = DiskPath::parse(rest)?;
        if whole.has_parent_component() {
            return Err(InputError::BadPath { path: whole.head(), why: "has '..' in it" });
        }
        let (directory, key) = rest.rsplit_once('/').unwrap_or(("", rest));
        let directory = if directory.is_empty() { "/" } else { directory };
        let key = unescaped(key).ok_or_else(|| InputError::BadPath {
            path: whole.head(),
            why: "has a '%' in its key that is not part of %2F or %25",
        })?;
        check_key(&key)?;
        Ok(Self { given: text.to_owned(), directory: directory.into(), key })
    }

    /// Returns the name, exactly as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.given
    }

    /// Returns the directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Returns the name of a key in a directory as a resource.
#[must_use]
pub fn spelt(directory: &Path, key: &str) -> String {
    let key = key.replace('%', "%25").replace('/', "%2F");
    format!("{SCHEME}{}", spelt_path(&directory.join(key)))
}

/// Formats a resource for a sentence: `disk /srv/a.img`, or `lease /srv/leases/a`. Its name is not
/// escaped.
#[must_use]
pub fn spoken(resource: &str) -> String {
    match resource.strip_prefix(SCHEME) {
        Some(lease) => format!("lease {lease}"),
        None => format!("disk {resource}"),
    }
}

fn unescaped(key: &str) -> Option<String> {
    let mut parts = key.split('%');
    let mut unescaped_key = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        unescaped_key.push(match code {
            "25" => '%',
            "2F" | "2f" => '/',
            _ => return None,
        });
        unescaped_key.push_str(rest);
    }
    Some(unescaped_key)
}

/// Returns the beginning of a key, for an error message about it.
pub(in crate::lock) fn head(key: &str) -> String {
    shown(&key.chars().take(80).collect::<String>())
}

/// Checks the name of a key: it must not lead out of its lockspace.
///
/// # Errors
///
/// [`InputError::BadKey`].
pub fn check_key(name: &str) -> Result<(), InputError> {
    let why = if name.is_empty() {
        "is empty"
    } else if name == "." || name == ".." || name.contains('/') {
        "is not the name of a file in a lockspace"
    } else if name.contains('\0') {
        "has a NUL in it"
    } else if name.len() > NAME_MAX {
        "is longer than 255 bytes"
    } else {
        return Ok(());
    };
    Err(InputError::BadKey { key: head(name), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        LeaseName::parse(text).unwrap().unwrap_err().to_string()
    }

    #[test]
    fn a_lease_is_a_directory_and_a_key() {
        for (text, directory, key) in [
            ("lease:/srv/leases/web1", "/srv/leases", "web1"),
            ("lease:/web1", "/", "web1"),
            ("lease:/srv//leases/./50%25", "/srv//leases/.", "50%"),
            ("lease:/srv/..a", "/srv", "..a"),
        ] {
            let lease = LeaseName::parse(text).unwrap().unwrap();
            assert_eq!((lease.directory(), lease.key()), (Path::new(directory), key), "{text}");
            assert_eq!(lease.as_str(), text);
            let again = LeaseName::parse(&spelt(Path::new(directory), key)).unwrap().unwrap();
            assert_eq!((again.directory(), again.key()), (Path::new(directory), key));
        }
        for disk in ["/srv/lease:/a", "Lease:/a", "lease", ""] {
            assert!(LeaseName::parse(disk).is_none(), "{disk}");
        }
    }

    #[test]
    fn invalid_lease_names_are_refused() {
        for (text, word) in [
            ("lease:", "is empty"),
            ("lease:srv/a", "is not absolute"),
            ("lease:/srv/leases/", "is empty"),
            ("lease:/srv/leases/.", "is not the name of a file"),
            ("lease:/srv/leases/..", "has '..' in it"),
            ("lease:/srv/../leases/a", "has '..' in it"),
            ("lease:/srv/a%2Fb", "is not the name of a file"),
            ("lease:/srv/%2f", "is not the name of a file"),
            ("lease:/srv/50%", "a '%' in its key"),
            ("lease:/srv/%00", "a '%' in its key"),
            ("lease:/srv/a\0b", "has a NUL in it"),
            (&format!("lease:/srv/{}", "x".repeat(256)), "is longer than 255 bytes"),
            (&format!("lease:/{}/a", "x".repeat(5000)), "is longer than 4095 bytes"),
        ] {
            let error = refused(text);
            assert!(error.contains(word) && error.len() < 200, "{text:.40}: {error}");
        }
    }

    #[test]
    fn a_sentence_names_the_kind_of_a_resource() {
        assert_eq!(spoken("/srv/a.img"), "disk /srv/a.img");
        assert_eq!(spoken(&spelt(Path::new("/srv"), "50%")), "lease /srv/50%25");
    }
}

//! Names of disks and leases, as the service accepts them.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{self, Path, PathBuf};

use crate::cli::error::Error;
use crate::lock::text::escape::shown_path;

/// The prefix of the name of a lease.
pub(crate) const LEASE_PREFIX: &str = "lease:";

/// Returns the path in the name of a lease; `None` for the path of a disk.
pub(crate) fn lease_path(path: &Path) -> Option<&Path> {
    let rest = path.as_os_str().as_bytes().strip_prefix(LEASE_PREFIX.as_bytes())?;
    Some(Path::new(OsStr::from_bytes(rest)))
}

/// Adds the prefix to the name of a lease, unless it has it.
pub(crate) fn with_lease_prefix(text: OsString) -> OsString {
    if lease_path(Path::new(&text)).is_some() {
        return text;
    }
    let mut name = OsString::from(LEASE_PREFIX);
    name.push(text);
    name
}

/// Whether this is the service's name of a disk that was passed as a descriptor of a file without a
/// name.
pub(crate) fn is_descriptor_name(path: &Path) -> bool {
    let name = path.as_os_str().as_bytes();
    name.starts_with(b"fd:inode:") || name.starts_with(b"fd:block:")
}

/// Makes the path of a disk, or the path in the name of a lease, absolute. An absolute path stays
/// as it was written, with its symbolic links: a hashed lockspace derives the lock file from the
/// spelling.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    if let Some(path) = lease_path(path) {
        return Ok(with_lease_prefix(absolute(path)?.into_os_string()).into());
    }
    if path.is_absolute() || is_descriptor_name(path) {
        return Ok(path.to_owned());
    }
    // No other program uses the spelling of a relative path, so "." components may be removed.
    let here = env::current_dir().map_err(|e| Error::system("find the current directory", e))?;
    path::absolute(here.join(path))
        .map_err(|e| Error::system(&format!("resolve {}", shown_path(path)), e))
}

/// Returns the absolute path as a string, since D-Bus strings are UTF-8.
pub(crate) fn utf8_path(path: &Path) -> Result<String, Error> {
    let name = absolute(path)?.into_os_string().into_string();
    name.map_err(|name| {
        let name = shown_path(Path::new(&name));
        Error::Failed(format!(
            "the path {name} is not UTF-8, so it cannot be sent; give a link to it that is"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_may_be_given_without_its_prefix() {
        for text in ["/srv/a", "lease:/srv/a"] {
            assert_eq!(with_lease_prefix(text.into()), "lease:/srv/a");
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
        assert!(utf8_path(Path::new(OsStr::from_bytes(b"/\xff"))).is_err());
    }
}

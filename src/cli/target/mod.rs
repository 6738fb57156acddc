//! Targets: arguments that name a disk, a lock or an owner.
//!
//! All commands parse targets by the same grammar, so that the output of one command is accepted by
//! another. The grammar is unambiguous: a number is a lock, and [`check_name`] refuses a name of an
//! owner that would be parsed as another kind of target.
//!
//! [`lookup`] finds the objects that a target names. [`disk`] parses `PATH[:MODE]`, [`disk_name`]
//! and [`disk_file`] have the names and files of disks, [`hints`] detects common mistakes, and
//! [`other_instance`] calls the service on the other bus.

pub(crate) mod disk;
pub(crate) mod disk_file;
pub(crate) mod disk_name;
pub(crate) mod hints;
pub(crate) mod lookup;
pub(crate) mod other_instance;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::format::row;
use crate::cli::terminal::slow_reply::report_slow_files;
use crate::client::{LOCKS_PATH, Options, Row, lists};
use crate::lock::model::owner::parse_uuid;
use crate::lock::text::escape::{shown, shown_path};
use crate::paths;

/// The grammar, for the help of the commands.
pub(crate) const GRAMMAR: &str = "\
Targets:
  PATH   an argument with a slash, the name of a file in
         the current directory, or a lease
         (lease:DIRECTORY/KEY)
  LOCK   a lock's number, as 'vmlockctl list' prints it
  OWNER  a UUID, the first digits of one (at least four),
         or an owner's name";

/// Returns the help of a command, with the grammar before it.
pub(crate) fn help(text: &str) -> String {
    if text.is_empty() { GRAMMAR.to_owned() } else { format!("{GRAMMAR}\n\n{text}") }
}

/// The number of hexadecimal digits that make a name look like a UUID, as lists print that many.
const LIKE_UUID: usize = 8;

/// An argument that names a disk, a lock or an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A disk, by its absolute path, or a lease, by its name with the prefix `lease:`.
    Path(PathBuf),
    /// A lock, by its number.
    Lock(u64),
    /// An owner, by its UUID, the first digits of its UUID, its name, or its object path.
    Owner(String),
}

impl Target {
    /// Parses an argument. A name without a slash is a path if the current directory has a file of
    /// this name.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`], with the correct form, if the argument is not a target.
    pub(crate) fn parse(argument: OsString) -> Result<Self, Error> {
        let path = Path::new(&argument);
        if argument.is_empty() {
            return Err(Error::Usage("a target is empty".to_owned()));
        }
        if let Some(text) = argument.to_str() {
            if let Some(number) = number(text).or_else(|| paths::lock_number(text)) {
                return Ok(Self::Lock(number));
            }
            if paths::owner_id(text).is_some() {
                return Ok(Self::Owner(text.to_owned()));
            }
        }
        if disk_name::is_descriptor_name(path) {
            return Ok(Self::Path(argument.into()));
        }
        let bytes = argument.as_bytes();
        let is_path =
            bytes.contains(&b'/') || bytes.starts_with(disk_name::LEASE_PREFIX.as_bytes());
        let is_here = |path: &Path| report_slow_files([path], || is_disk(path));
        if is_path || is_here(path) {
            hints::check_path(path).map_err(Error::Usage)?;
            return disk_name::absolute(path).map(Self::Path);
        }
        hints::check_network(path).map_err(Error::Usage)?;
        let text = argument.into_string();
        let invalid = |text| {
            let text = shown_path(Path::new(&text));
            Error::Usage(format!(
                "'{text}' is not UTF-8; for a file of that name, write './{text}'"
            ))
        };
        text.map(Self::Owner).map_err(invalid)
    }

    /// Returns the paths of the disks that it names: the disk of a lock, or all disks that an owner
    /// holds.
    pub(crate) async fn disks(&self, service: &ServiceConnection) -> Result<Vec<PathBuf>, Error> {
        let path = |lock: &Row| PathBuf::from(row::text(lock, "resource"));
        match self {
            Self::Path(path) => Ok(vec![path.clone()]),
            Self::Lock(number) => Ok(vec![path(&lock(service, *number).await?)]),
            Self::Owner(text) => Ok(locks_of(service, text).await?.iter().map(path).collect()),
        }
    }

    /// Returns the owner that it names; for a lock or a disk, the holder.
    pub(crate) async fn owner(&self, service: &ServiceConnection) -> Result<Row, Error> {
        let text = match self {
            Self::Owner(text) => text.clone(),
            Self::Lock(number) => row::text(&lock(service, *number).await?, "owner").to_owned(),
            Self::Path(path) => {
                row::text(&lookup::lock_on(service, path, None).await?, "owner").to_owned()
            }
        };
        let owners = lists::owners(&service.manager().await?).await?;
        lookup::owner(&owners, &text, service.uid).cloned()
    }
}

/// Returns the lock with this number, as a row of `ListLocks`.
pub(crate) async fn lock(service: &ServiceConnection, number: u64) -> Result<Row, Error> {
    let Some(before) = number.checked_sub(1) else { return Err(no_lock(number)) };
    let page = Options::from([("after", before.into()), ("limit", 1_u32.into())]);
    let rows = service.manager().await?.list_locks(page).await?;
    let path = format!("{LOCKS_PATH}/{number}");
    rows.into_iter().find(|row| row::text(row, "lock") == path).ok_or_else(|| no_lock(number))
}

/// Returns the error for the number of a lock that does not exist.
pub(crate) fn no_lock(number: u64) -> Error {
    let file = if is_disk(Path::new(&number.to_string())) {
        format!("; for the file, write './{number}'")
    } else {
        String::new()
    };
    Error::Missing(format!("there is no lock {number}; 'vmlockctl list' lists the locks{file}"))
}

/// Returns the locks that an owner holds.
///
/// # Errors
///
/// [`Error::Missing`] if there is no such owner, or it holds no lock.
pub(crate) async fn locks_of(service: &ServiceConnection, text: &str) -> Result<Vec<Row>, Error> {
    let manager = service.manager().await?;
    let owners = lists::owners(&manager).await?;
    let owner = lookup::owner(&owners, text, service.uid)?;
    let Some(path) = row::path(owner, "owner") else { return Ok(Vec::new()) };
    let mut locks = lists::locks(&manager, lists::path_option("owner", path)).await?;
    locks.retain(|lock| row::text(lock, "owner") == path.as_str());
    if locks.is_empty() {
        return Err(Error::Missing(format!("{} holds no lock", row::vm(owner))));
    }
    Ok(locks)
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Whether a path leads to a file or device that can be a disk.
fn is_disk(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| disk_file::can_be_disk(&found))
}

/// Checks that an owner of this name can be named as a target.
///
/// # Errors
///
/// The reason why it cannot.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_like_uuid = || {
        let digits = |c: &char| c.is_ascii_hexdigit() || *c == '-';
        name.chars().take_while(digits).count() == name.chars().count()
            && name.chars().take_while(char::is_ascii_hexdigit).count() >= LIKE_UUID
    };
    let why = if name.contains('/') {
        "contains a slash, so it would be taken for a path"
    } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
        "has only digits, so it would be taken for the number of a lock"
    } else if name.starts_with(disk_name::LEASE_PREFIX)
        || disk_name::is_descriptor_name(Path::new(name))
    {
        "would be taken for a lease or a disk"
    } else if name.starts_with('-') {
        "begins with '-', so it would be taken for an option"
    } else if parse_uuid(name).is_ok() || is_like_uuid() {
        "would be taken for a UUID"
    } else {
        return Ok(());
    };
    Err(format!(
        "the name '{}' {why}; use another one, such as 'vm-{}'",
        shown(name),
        suggested_suffix(name)
    ))
}

/// Returns the part of a refused name that the suggested name contains.
fn suggested_suffix(name: &str) -> String {
    let name = shown(name.trim_start_matches(disk_name::LEASE_PREFIX).trim_matches(['-', '/']));
    let name = name.rsplit('/').next().unwrap_or_default();
    if name.is_empty() { "1".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_a_path_a_lock_or_an_owner() {
        let target = |text: &str| Target::parse(text.into()).unwrap();
        for path in ["/a/../b", "lease:/a/b", "fd:inode:8:1:7"] {
            assert_eq!(target(path), Target::Path(path.into()));
        }
        // Tests run in the root directory of the package.
        for path in ["./a", "../a", "a/b", "Cargo.toml"] {
            assert!(matches!(target(path), Target::Path(path) if path.is_absolute()), "{path}");
        }
        assert_eq!(target("16"), Target::Lock(16));
        assert_eq!(target("/org/vmlockd1/lock/16"), Target::Lock(16));
        let owner = "/org/vmlockd1/owner/_4dea22b3_1d52_d8f3_2516_782e98ab3fa0";
        // A directory is not a disk, such as "src".
        for text in ["a.img", ".a", "web1", "src", "4dea", "12345678-1d52", owner] {
            assert_eq!(target(text), Target::Owner(text.into()));
        }
        for text in ["", "rbd:pool/image", "nbd:localhost:10809", "/srv/a.img/"] {
            assert!(matches!(Target::parse(text.into()), Err(Error::Usage(_))), "{text}");
        }
    }

    #[test]
    fn a_name_that_would_be_another_kind_of_target_is_refused() {
        for name in ["web1", "vmlockctl lock", "db01", "cafe", "7z", "web-4dea22b3", "12ab"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for (name, why) in [
            ("a/b", "contains a slash"),
            ("16", "only digits"),
            ("lease:a", "taken for a lease"),
            ("-v", "begins with '-'"),
            ("4dea22b3", "taken for a UUID"),
            ("DEADBEEF", "taken for a UUID"),
            ("4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "taken for a UUID"),
        ] {
            let hint = check_name(name).unwrap_err();
            assert!(hint.contains(why) && hint.contains("such as 'vm-"), "{hint}");
        }
    }
}

//! The grammar of targets: an argument that names a disk, a lock or an owner.
//!
//! All commands read such an argument alike, so that what one command prints another takes. An argument
//! that could mean two things is never guessed at: a number is a lock, and a name that could be taken
//! for something else is refused when it is given to an owner ([`check_name`]).

pub(crate) mod disk;
pub(crate) mod hints;
pub(crate) mod lookup;
pub(crate) mod other_instance;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::format::row;
use crate::cli::terminal::slow_reply::report_slow_files;
use crate::client::{LOCKS_PATH, OWNERS_PATH, Options, Row, lists};
use crate::lock::owner::parse_uuid;
use crate::lock::printable::{shown, shown_path};
use crate::paths;

/// The grammar, for the help of the commands that take a target.
pub(crate) const GRAMMAR: &str = "\
Targets:
  PATH   an argument with a slash, the name of a file in
         the current directory, or a lease
         (lease:DIRECTORY/KEY)
  LOCK   a lock's number, as 'vmlockctl list' prints it
  OWNER  a UUID, the first digits of one (at least four),
         or an owner's name";

/// Appends the grammar to the help of a command.
pub(crate) fn help(text: &str) -> String {
    if text.is_empty() { GRAMMAR.to_owned() } else { format!("{GRAMMAR}\n\n{text}") }
}

/// How many hexadecimal digits a name may begin with before it looks like a UUID: as many as lists
/// print of one.
const LIKE_UUID: usize = 8;

/// An argument that names a disk, a lock or an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A disk, by its absolute path, or a lease, by its name.
    Path(PathBuf),
    /// A lock, by its number.
    Lock(u64),
    /// An owner, by its UUID, the first digits of that, its name, or the path of its object.
    Owner(String),
}

impl Target {
    /// Reads an argument. Looks whether a file in the current directory has this name.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] where the argument can't name anything, with the form that can.
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
        if disk::is_nameless(path) {
            return Ok(Self::Path(argument.into()));
        }
        let bytes = argument.as_bytes();
        let is_path = bytes.contains(&b'/') || bytes.starts_with(disk::LEASE.as_bytes());
        let is_here = |path: &Path| report_slow_files([path], || is_disk(path));
        if is_path || is_here(path) {
            hints::check_path(path).map_err(Error::Usage)?;
            return disk::absolute(path).map(Self::Path);
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

    /// The paths of the disks that it names: of a lock its disk, of an owner all that it holds.
    pub(crate) async fn disks(&self, link: &Link) -> Result<Vec<PathBuf>, Error> {
        let path = |lock: &Row| PathBuf::from(row::text(lock, "resource"));
        match self {
            Self::Path(path) => Ok(vec![path.clone()]),
            Self::Lock(number) => Ok(vec![path(&lock(link, *number).await?)]),
            Self::Owner(text) => Ok(locks_of(link, text).await?.iter().map(path).collect()),
        }
    }
}

impl Target {
    /// Returns the owner that it names: for a lock or a disk, the one that holds it.
    pub(crate) async fn owner(&self, link: &Link) -> Result<Row, Error> {
        let text = match self {
            Self::Owner(text) => text.clone(),
            Self::Lock(number) => row::text(&lock(link, *number).await?, "owner").to_owned(),
            Self::Path(path) => {
                row::text(&lookup::lock_on(link, path, None).await?, "owner").to_owned()
            }
        };
        let owners = lists::owners(&link.manager().await?).await?;
        lookup::owner(&owners, &text, link.uid).cloned()
    }
}

/// Returns the lock with this number, as a row of `ListLocks`.
pub(crate) async fn lock(link: &Link, number: u64) -> Result<Row, Error> {
    let Some(before) = number.checked_sub(1) else { return Err(no_lock(number)) };
    let page = Options::from([("after", before.into()), ("limit", 1_u32.into())]);
    let rows = link.manager().await?.list_locks(page).await?;
    let path = format!("{LOCKS_PATH}/{number}");
    rows.into_iter().find(|row| row::text(row, "lock") == path).ok_or_else(|| no_lock(number))
}

/// The error for a number that no lock has.
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
/// [`Error::Missing`] where there is no such owner, or it holds no lock.
pub(crate) async fn locks_of(link: &Link, text: &str) -> Result<Vec<Row>, Error> {
    let manager = link.manager().await?;
    let owners = lists::owners(&manager).await?;
    let owner = lookup::owner(&owners, text, link.uid)?;
    let Some(path) = row::path(owner, "owner") else { return Ok(Vec::new()) };
    let mut locks = lists::locks(&manager, lists::path_option("owner", path)).await?;
    locks.retain(|lock| row::text(lock, "owner") == path.as_str());
    if locks.is_empty() {
        let (name, uuid) = (row::text(owner, "name"), row::text(owner, "uuid"));
        return Err(Error::Missing(format!("VM \"{name}\" ({uuid}) holds no lock")));
    }
    Ok(locks)
}

/// Whether a text is an owner's object path.
pub(crate) fn is_owner_path(text: &str) -> bool {
    text.strip_prefix(OWNERS_PATH).is_some_and(|rest| rest.starts_with('/'))
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Whether a path leads to a file or device that can be a disk.
fn is_disk(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() || found.file_type().is_block_device())
}

/// Checks that an owner of this name can be named as a target.
///
/// # Errors
///
/// The reason why not.
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
    } else if name.starts_with(disk::LEASE) || disk::is_nameless(Path::new(name)) {
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
        suggested(name)
    ))
}

/// What of a name can stand in one that is taken.
fn suggested(name: &str) -> String {
    let name = shown(name.trim_start_matches(disk::LEASE).trim_matches(['-', '/']));
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
        // The tests run where this file is.
        for path in ["./a", "../a", "a/b", "Cargo.toml"] {
            assert!(matches!(target(path), Target::Path(path) if path.is_absolute()), "{path}");
        }
        assert_eq!(target("16"), Target::Lock(16));
        assert_eq!(target("/org/vmlockd1/lock/16"), Target::Lock(16));
        let owner = "/org/vmlockd1/owner/_4dea22b3_1d52_d8f3_2516_782e98ab3fa0";
        // A directory is not a disk: "src" is there.
        for text in ["a.img", ".a", "web1", "src", "4dea", "12345678-1d52", owner] {
            assert_eq!(target(text), Target::Owner(text.into()));
        }
        for text in ["", "rbd:pool/image", "nbd:localhost:10809", "/srv/a.img/"] {
            assert!(matches!(Target::parse(text.into()), Err(Error::Usage(_))), "{text}");
        }
    }

    #[test]
    fn a_name_that_is_no_target_is_refused_with_the_reason() {
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
            let said = check_name(name).unwrap_err();
            assert!(said.contains(why) && said.contains("such as 'vm-"), "{said}");
        }
    }
}

//! Host presence: the hosts that share a lockspace. Each keeps a file there locked while its
//! service runs.
//!
//! The file is `hosts/<id>`, named by the host's id, and contains the host's name and settings. A
//! host that sees the locks of others there knows that locks reach from host to host. A host that
//! reads the settings of others knows whether all use the same locking; otherwise their locks would
//! not conflict.
//!
//! Another host, or a foreign program, has written the content of such a file. It decides nothing,
//! and is displayed only if it is valid, bounded and escaped.

pub mod keeper;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::ofd;
use crate::lock::lockspace::directory::Directory;
use crate::lock::model::error::Error;
use crate::lock::model::host::{self, hex};
use crate::lock::model::mode::Mode;
use crate::lock::model::operation::Operation;
use crate::lock::path::open::Links;
use crate::lock::text::escape::{is_printable, spelt_path};

/// The directory of the files, in that of the lockspace.
pub const FOLDER: &str = "hosts";
/// The offset of the text: some file systems refuse reads of a byte that another process has
/// locked.
const TEXT: u64 = 1;
/// The longest text, in bytes.
const TEXT_MAX: usize = 8 << 10;
/// The maximum number of hosts that are read.
const HOSTS_MAX: usize = 256;
/// The longest value of a setting, in bytes.
const VALUE_MAX: usize = 4096;

/// The announcement of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Its name for display.
    pub name: String,
    /// The version of its service.
    pub version: String,
    /// An id of the present boot of its system.
    pub boot: String,
    /// The settings on which all hosts have to agree, by their names in the configuration.
    pub settings: BTreeMap<String, String>,
    /// A digest of the settings.
    pub fingerprint: String,
}

impl Announcement {
    /// Returns the announcement of this host.
    #[must_use]
    pub fn new(name: String, settings: BTreeMap<String, String>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let fingerprint = fingerprint(&settings);
        Self { name, version, boot: this_boot(), settings, fingerprint }
    }

    fn is_valid(&self) -> bool {
        let is_short = |text: &str| text.len() <= host::NAME_MAX && text.chars().all(is_printable);
        let is_valid_setting = |(key, value): (&String, &String)| {
            is_short(key) && value.len() <= VALUE_MAX && value.chars().all(is_printable)
        };
        host::is_name(&self.name)
            && [&self.version, &self.boot, &self.fingerprint].into_iter().all(|text| is_short(text))
            && self.settings.iter().all(is_valid_setting)
    }

    /// Whether it is the announcement of this host in its present boot.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.boot == this_boot()
    }
}

/// A host that has a file in the lockspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPresence {
    /// Its id.
    pub id: String,
    /// Whether its file is locked, as seen from this host; `None` if that is unknown.
    pub locked: Option<bool>,
    /// Its announcement; `None` if it is invalid.
    pub announcement: Option<Announcement>,
}

/// Locks the file of a host, and writes its announcement. It stays locked until the returned file
/// is dropped. `None` if another process has it locked.
///
/// # Errors
///
/// As for [`Directory::make`] and [`Directory::open_file`], and errors of writing.
pub fn announce(lockspace: &Path, id: &str, announcement: &str) -> Result<Option<fs::File>, Error> {
    let folder = Directory::make(&lockspace.join(FOLDER), Links::Follow)?;
    let file = folder.open_file(id)?;
    let failed = |operation, error: io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Error::system(operation, spelt_path(&folder.path_of(id)), errno)
    };
    let locked = ofd::try_lock(&file, Mode::Exclusive);
    let locked = locked.map_err(|errno| failed(Operation::Lock, errno.into()))?;
    if !locked || !folder.still_names(id, &file)? {
        return Ok(None);
    }
    let text = format!("\n{announcement}\n");
    let written = file.write_all_at(text.as_bytes(), 0);
    let written = written.and_then(|()| file.set_len(text.len() as u64));
    written.map_err(|error| failed(Operation::Write, error))?;
    Ok(Some(file))
}

/// Returns the hosts that have a file in a lockspace, by their ids. Writes nothing and locks
/// nothing.
///
/// # Errors
///
/// Errors of reading the directory, except that it does not exist: then there are none.
pub fn list_hosts(lockspace: &Path) -> Result<Vec<HostPresence>, Error> {
    let folder = lockspace.join(FOLDER);
    let failed = |error: io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Error::system(Operation::Read, spelt_path(&folder), errno)
    };
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut ids: Vec<String> = names.filter(|name| host::is_id(name)).take(HOSTS_MAX).collect();
    ids.sort();
    Ok(ids.into_iter().filter_map(|id| read_host(&folder, id)).collect())
}

fn read_host(folder: &Path, id: String) -> Option<HostPresence> {
    // Follows no symbolic link, and does not block on a FIFO.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = flags.bits().cast_signed();
    let file = fs::File::options().read(true).custom_flags(flags).open(folder.join(&id)).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let locked = ofd::conflicting_lock(&file, Mode::Shared).ok().map(|other| other.is_some());
    Some(HostPresence { id, locked, announcement: read(&file) })
}

fn read(file: &fs::File) -> Option<Announcement> {
    let mut text = vec![0; TEXT_MAX];
    let mut length = 0;
    loop {
        let more = file.read_at(text.get_mut(length..)?, TEXT + length as u64).ok()?;
        length += more;
        if more == 0 {
            break;
        }
    }
    // If the buffer is full, the text may continue.
    let announcement: Announcement = serde_json::from_slice(text.get(..length)?).ok()?;
    (length < TEXT_MAX && announcement.is_valid()).then_some(announcement)
}

fn fingerprint(settings: &BTreeMap<String, String>) -> String {
    let mut digest = Sha256::new();
    for (key, value) in settings {
        digest.update(format!("{key}={value}\n"));
    }
    hex(&digest.finalize()[..8])
}

/// Returns an id of the present boot that does not reveal the boot id itself.
fn this_boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digest = Sha256::new().chain_update("org.vmlockd1 boot ").chain_update(id.trim());
    hex(&digest.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode as Permissions, mknodat};
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};

    fn announcement(dir: &str) -> Announcement {
        let settings = BTreeMap::from([("file_lockspace_dir".to_owned(), dir.to_owned())]);
        Announcement::new("Node 1".to_owned(), settings)
    }

    fn space() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("locks")).unwrap();
        dir
    }

    #[test]
    fn a_host_is_present_while_its_file_is_locked() {
        let dir = space();
        let locks = dir.path().join("locks");
        assert_eq!(list_hosts(&locks).unwrap(), []);
        let announcement = announcement("/a");
        let text = serde_json::to_string(&announcement).unwrap();
        let kept = announce(&locks, "node-1", &text).unwrap().unwrap();
        assert!(announce(&locks, "node-1", &text).unwrap().is_none());
        let [host] = &list_hosts(&locks).unwrap()[..] else { panic!("not one") };
        assert_eq!((host.id.as_str(), host.locked), ("node-1", Some(true)));
        assert_eq!(host.announcement.as_ref(), Some(&announcement));
        assert!(announcement.is_here());
        let folder = fs::metadata(locks.join(FOLDER)).unwrap();
        let file = fs::metadata(locks.join(FOLDER).join("node-1")).unwrap();
        assert_eq!((folder.mode() & 0o7777, file.mode() & 0o7777), (0o700, 0o600));
        drop(kept);
        assert_eq!(list_hosts(&locks).unwrap()[0].locked, Some(false));
        drop(announce(&locks, "node-1", "{}").unwrap().unwrap());
        assert_eq!(list_hosts(&locks).unwrap()[0].announcement, None);
    }

    #[test]
    fn the_settings_make_the_fingerprint() {
        assert_eq!(announcement("/a").fingerprint, announcement("/a").fingerprint);
        assert_ne!(announcement("/a").fingerprint, announcement("/b").fingerprint);
    }

    #[test]
    fn foreign_content_is_bounded_and_ignored() {
        let dir = space();
        let locks = dir.path().join("locks");
        let folder = locks.join(FOLDER);
        fs::create_dir(&folder).unwrap();
        let good = serde_json::to_string(&announcement("/a")).unwrap();
        let put = |name: &str, text: &[u8]| fs::write(folder.join(name), text).unwrap();
        put("binary", &[0xff; 64]);
        put("empty", b"");
        put("large", &vec![b' '; 1 << 20]);
        put("nested", "[".repeat(4000).as_bytes());
        put("long-name", format!("\n{}", good.replace("Node 1", &"x".repeat(65))).as_bytes());
        put("escapes", format!("\n{}", good.replace("Node 1", "a\\u001b[2J")).as_bytes());
        put("UPPER", format!("\n{good}").as_bytes());
        fs::create_dir(folder.join("folder")).unwrap();
        symlink("/etc/passwd", folder.join("link")).unwrap();
        mknodat(CWD, folder.join("fifo"), FileType::Fifo, Permissions::RWXU, 0).unwrap();
        let hosts = list_hosts(&locks).unwrap();
        let ids: Vec<&str> = hosts.iter().map(|host| host.id.as_str()).collect();
        assert_eq!(ids, ["binary", "empty", "escapes", "large", "long-name", "nested"]);
        assert!(hosts.iter().all(|host| host.announcement.is_none() && host.locked == Some(false)));
    }
}

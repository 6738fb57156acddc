//! The configuration file: `vmlockd.toml`.
//!
//! Everything is optional; what is not known is refused, with its line and a suggestion, since a
//! misspelt key would leave disks less protected than its writer believes. The keys about lock
//! files bear libvirt's names and take its `0` and `1`, so that an existing `qemu-lockd.conf`,
//! which is TOML as far as libvirt's own parser goes, can be read as it is.

mod suggestion;
mod value;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::lock;
use crate::lock::host::Host;
use crate::lock::lockspace::{Directory, Lockspaces};
use crate::lock::printable::{reason, shown, shown_path};
use crate::logging::Level;
use crate::nearest::nearest;
use crate::service::{Limits, Settings, Visibility};
use value::{boolean, seconds, string};

/// A configuration that was read and checked.
#[derive(Debug)]
pub struct Config {
    /// What the service goes by.
    pub settings: Settings,
    /// How much is logged.
    pub log_level: Level,
    /// The socket on which virtlockd's clients are served, if any. Goes by the start.
    pub virtlockd_socket: Option<PathBuf>,
}

/// Why a configuration can't be used. The message names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("{file}: {}", reason(cause))]
    Unreadable {
        /// The file.
        file: String,
        /// The cause.
        cause: io::Error,
    },
    /// Something in it is wrong.
    #[error("{file}:{line}: {what}")]
    Wrong {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// Where a configuration comes from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Whether it has to be there: one that somebody named must, the default one need not.
    pub required: bool,
}

impl Source {
    /// Reads and checks it, and opens the directories that it names.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn load(&self) -> Result<Config, Error> {
        self.load_with(Directory::open)
    }

    /// Reads and checks it, and leaves the directories that it names alone until they are used.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn load_text(&self) -> Result<Config, Error> {
        self.load_with(|path| Ok(Directory::unopened(path)))
    }

    fn load_with(&self, open: Open) -> Result<Config, Error> {
        let file = shown_path(&self.path);
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && !self.required => {
                String::new()
            }
            Err(cause) => return Err(Error::Unreadable { file, cause }),
        };
        parse(&text, open).map_err(|wrong| Error::Wrong {
            line: text[..wrong.at.min(text.len())].matches('\n').count() + 1,
            file,
            what: wrong.what,
        })
    }
}

/// Something wrong at a place in the text.
struct Wrong {
    at: usize,
    what: String,
}

type Table<'t> = DeTable<'t>;
type Value<'t> = Spanned<DeValue<'t>>;

const KEYS: &[&str] = &[
    "allow_fuse",
    "auto_disk_leases",
    "file_lockspace_dir",
    "host_id",
    "host_name",
    "limits",
    "log_level",
    "lvm_lockspace_dir",
    "privacy",
    "record_holders",
    "release_grace",
    "require_lease_for_disks",
    "scsi_lockspace_dir",
    "verify_interval",
    "virtlockd_socket",
];

/// How the directories are had that a configuration names.
type Open = fn(&Path) -> Result<Directory, lock::Error>;

fn parse(text: &str, open: Open) -> Result<Config, Wrong> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let hint = suggestion::bare(text, at).map(|hint| format!("; {hint}"));
        Wrong { at, what: format!("{}{}", error.message(), hint.unwrap_or_default()) }
    })?;
    let table = table.get_ref();
    check_keys(table, KEYS)?;
    let settings = Settings::default();
    let mut config = Config { settings, log_level: Level::Info, virtlockd_socket: None };
    let locked = boolean(table, "auto_disk_leases")?.is_none_or(|(_, on)| on);
    config.settings.only_record_disks = !locked;
    // As libvirt has it: what does not lock disks has to have something else that excludes others.
    let required = boolean(table, "require_lease_for_disks")?.map(|(_, on)| on);
    config.settings.require_lease_for_disks = required.unwrap_or(!locked);
    let Lockspaces { file, lvm, scsi, .. } = &mut config.settings.lockspaces;
    for (key, place) in
        [("file_lockspace_dir", file), ("lvm_lockspace_dir", lvm), ("scsi_lockspace_dir", scsi)]
    {
        if let Some((value, path)) = string(table, key)? {
            let opened = open(Path::new(path)).map_err(|error| wrong(value, error.to_string()))?;
            *place = Some(Arc::new(opened));
        }
    }
    read_host(table, &mut config.settings.lockspaces)?;
    if let Some((_, on)) = boolean(table, "allow_fuse")? {
        config.settings.allow_fuse = on;
    }
    let for_never = "86400 at most; 0 for never";
    if let Some(interval) = seconds(table, "verify_interval", 86_400, for_never)? {
        config.settings.verify_interval = (interval > 0).then(|| Duration::from_secs(interval));
    }
    if let Some(grace) = seconds(table, "release_grace", 3600, "3600 at most; 0 for none")? {
        config.settings.release_grace = (grace > 0).then(|| Duration::from_secs(grace));
    }
    if let Some((value, word)) = string(table, "privacy")? {
        config.settings.visibility = match word {
            "open" => Visibility::Open,
            "private" => Visibility::Private,
            _ => return Err(wrong(value, "'privacy' must be \"open\" or \"private\"")),
        };
    }
    if let Some((value, word)) = string(table, "log_level")? {
        config.log_level = word.parse().map_err(|error: String| {
            let hint = suggestion::level(word).map(|word| format!("; write \"{word}\""));
            wrong(value, error + &hint.unwrap_or_default())
        })?;
    }
    if let Some((value, path)) = string(table, "virtlockd_socket")? {
        if !path.starts_with('/') {
            return Err(wrong(value, "'virtlockd_socket' must be an absolute path".to_owned()));
        }
        config.virtlockd_socket = Some(path.into());
    }
    if let Some(value) = table.get("limits") {
        let DeValue::Table(limits) = value.get_ref() else {
            return Err(wrong(value, "'limits' must be a table"));
        };
        read_limits(limits, &mut config.settings.limits)?;
    }
    Ok(config)
}

/// Who this host is to others, and what they are told.
fn read_host(table: &Table<'_>, lockspaces: &mut Lockspaces) -> Result<(), Wrong> {
    let (id, name) = (string(table, "host_id")?, string(table, "host_name")?);
    let (id_text, name_text) = (id.map(|(_, text)| text), name.map(|(_, text)| text));
    for (key, given, host) in
        [("host_id", id, Host::new(id_text, None)), ("host_name", name, Host::new(None, name_text))]
    {
        if let (Some((value, _)), Err(why)) = (given, host) {
            return Err(wrong(value, format!("'{key}' {why}")));
        }
    }
    // Both are fine.
    lockspaces.host = Host::new(id_text, name_text).ok().flatten().map(Arc::new);
    if let Some((value, word)) = string(table, "record_holders")? {
        let wanted = || {
            let words = "\"lockspaces\", \"shared\", \"always\" or \"never\"";
            wrong(value, format!("'record_holders' must be {words}"))
        };
        lockspaces.recording = word.parse().map_err(|()| wanted())?;
    }
    Ok(())
}

fn read_limits(table: &Table<'_>, limits: &mut Limits) -> Result<(), Wrong> {
    let fields: [(&str, &mut usize); 16] = [
        ("owners_per_user", &mut limits.owners_per_user),
        ("locks_per_user", &mut limits.locks_per_user),
        ("lifelines_per_user", &mut limits.lifelines_per_user),
        ("processes_per_user", &mut limits.processes_per_user),
        ("calls_per_user", &mut limits.calls_per_user),
        ("calls_per_connection", &mut limits.calls_per_connection),
        ("calls_per_second", &mut limits.calls_per_second),
        ("calls_per_second_per_connection", &mut limits.calls_per_second_per_connection),
        ("waiters_per_user", &mut limits.waiters_per_user),
        ("waiters_total", &mut limits.waiters_total),
        ("checks_per_user", &mut limits.checks_per_user),
        ("checks_total", &mut limits.checks_total),
        ("resources_per_call", &mut limits.resources_per_call),
        ("owners_total", &mut limits.owners_total),
        ("anchors_total", &mut limits.anchors_total),
        ("locks_total", &mut limits.locks_total),
    ];
    check_keys(table, &fields.each_ref().map(|(key, _)| *key))?;
    for (key, field) in fields {
        if let Some(value) = table.get(key) {
            let number = match value.get_ref() {
                DeValue::Integer(number) => number.as_str().parse().ok(),
                _ => None,
            };
            let wanted = || wrong(value, format!("'{key}' must be a whole number, 1 or more"));
            *field = number.filter(|number| *number > 0).ok_or_else(wanted)?;
        }
    }
    Ok(())
}

/// Refuses keys that nobody knows.
fn check_keys(table: &Table<'_>, known: &[&str]) -> Result<(), Wrong> {
    let unknown = |key: &&Spanned<_>| !known.contains(&AsRef::<str>::as_ref(key.get_ref()));
    let Some(key) = table.keys().find(unknown) else {
        return Ok(());
    };
    let (at, key) = (key.span().start, AsRef::<str>::as_ref(key.get_ref()));
    let near = nearest(key, known);
    let key = shown(key);
    let what = match near {
        Some(word) => format!("unknown key '{key}', did you mean '{word}'?"),
        None => format!("unknown key '{key}', known are: {}", known.join(", ")),
    };
    Err(Wrong { at, what })
}

fn wrong(value: &Value<'_>, what: impl Into<String>) -> Wrong {
    Wrong { at: value.span().start, what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlockd.toml");
        fs::write(&path, text).unwrap();
        let error = Source { path: path.clone(), required: true }.load().unwrap_err().to_string();
        error.strip_prefix(&format!("{}:", path.display())).unwrap().to_owned()
    }

    #[test]
    fn a_file_that_cannot_be_read_is_reported_in_words() {
        let source = Source { path: "/none/such.toml".into(), required: true };
        let said = source.load().unwrap_err().to_string();
        assert_eq!(said, "/none/such.toml: No such file or directory");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, said) in [
            (
                "\n\nfile_lockspace_dri = \"/x\"\n",
                "3: unknown key 'file_lockspace_dri', did you mean 'file_lockspace_dir'?",
            ),
            ("foo = 1", "1: unknown key 'foo', known are: "),
            ("allow_fuse = 2", "1: 'allow_fuse' must be true or false"),
            (
                "allow_fuse = \"on\"",
                "1: 'allow_fuse' must be true or false; write allow_fuse = true",
            ),
            ("log_level = \"warn\"", "1: 'warn' is not a"),
            ("log_level = \"loud\"", "1: 'loud' is not a log level"),
            ("log_level = 3", "1: 'log_level' must be a string"),
            ("host_id = \"Node 1\"", "1: 'host_id' must be 1 to 64 of the characters a to z"),
            ("host_id = \"a\"\nhost_name = \"\"", "2: 'host_name' must be 1 to 64 bytes long"),
            ("record_holders = \"all\"", "1: 'record_holders' must be \"lockspaces\", \"shared\""),
            ("[limits]\nlocks_per_user = 0", "2: 'locks_per_user' must be a whole number"),
            (
                "[limits]\nlocks_per_usr = 1",
                "2: unknown key 'locks_per_usr', did you mean 'locks_per_user'?",
            ),
            ("limits = 5", "1: 'limits' must be a table"),
            ("\nauto_disk_leases = 2", "2: 'auto_disk_leases' must be true or false"),
            ("lvm_lockspace_dir = 1", "1: 'lvm_lockspace_dir' must be a string"),
            (
                "scsi_lockspace_dir = \"x\"",
                "1: cannot use lockspace directory x: is not an absolute path",
            ),
            (
                "\nlvm_lockspace_dir = \"/none/such\"",
                "2: cannot use lockspace directory /none/such: does not exist",
            ),
            (
                "file_lockspace_dir = \"/none/such\"",
                "1: cannot use lockspace directory /none/such: does not exist",
            ),
            ("\nprivacy = \"closed\"", "2: 'privacy' must be \"open\" or \"private\""),
            ("privacy = true", "1: 'privacy' must be a string"),
            ("verify_interval = 86401", "1: 'verify_interval' must be a number of seconds"),
            ("verify_interval = \"1s\"", "1: 'verify_interval' must be a number of seconds"),
            (
                "release_grace = 3601",
                "1: 'release_grace' must be a number of seconds, 3600 at most",
            ),
            ("release_grace = -1", "1: 'release_grace' must be a number of seconds, 3600 at most"),
            ("a = ", "1: "),
        ] {
            let error = refused(text);
            assert!(error.starts_with(said), "{error}");
        }
    }

    #[test]
    fn libvirts_own_file_is_understood() {
        let open: Open = |path| Directory::open(path);
        let config = parse("# libvirt\nauto_disk_leases = 1\nrequire_lease_for_disks = 0\n", open);
        assert!(config.is_ok_and(|config| !config.settings.require_lease_for_disks));
        for (text, recorded, required) in [
            ("", false, false),
            ("auto_disk_leases = 0", true, true),
            ("auto_disk_leases = false\nrequire_lease_for_disks = 0", true, false),
            ("require_lease_for_disks = true", false, true),
            ("auto_disk_leases = true\nrequire_lease_for_disks = 1", false, true),
        ] {
            let settings = parse(text, open).ok().unwrap().settings;
            let found = (settings.only_record_disks, settings.require_lease_for_disks);
            assert_eq!(found, (recorded, required), "{text}");
        }
        let config =
            parse("log_level = \"debug\"\n[limits]\nlocks_per_user = 7\n", open).ok().unwrap();
        assert_eq!((config.log_level, config.settings.limits.locks_per_user), (Level::Debug, 7));
    }

    #[test]
    fn only_a_named_file_must_be_there() {
        let path = PathBuf::from("/none/such");
        assert!(Source { path: path.clone(), required: false }.load().is_ok());
        assert!(Source { path, required: true }.load().is_err());
    }
}

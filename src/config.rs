//! The configuration file, `vmlockd.toml`.
//!
//! All keys are optional. An unknown key is an error with a line number and a suggestion, since a
//! misspelt key would leave disks less protected than the administrator intends. The keys for lock
//! files have libvirt's names and accept its values `0` and `1`, so that an existing
//! `qemu-lockd.conf` can be used unchanged; libvirt's syntax is a subset of TOML.

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
use crate::lock::lockspace::{Directory, Lockspaces};
use crate::lock::model::host::Host;
use crate::lock::text::escape::{reason, shown, shown_path};
use crate::logging::Level;
use crate::nearest::nearest;
use crate::service::{Limits, Settings, Visibility};
use value::{boolean, seconds, string};

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// The settings of the service.
    pub settings: Settings,
    /// The log level.
    pub log_level: Level,
    /// The socket on which virtlockd's clients are served, if any. Changes take effect at the next
    /// start.
    pub virtlockd_socket: Option<PathBuf>,
}

/// The reason why a configuration cannot be used. The message contains the file, and the line if
/// there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{file}: {}", reason(cause))]
    Unreadable {
        /// The file.
        file: String,
        /// The cause.
        cause: io::Error,
    },
    /// The file is invalid.
    #[error("{file}:{line}: {reason}")]
    Invalid {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The reason.
        reason: String,
    },
}

/// The path of a configuration, and whether it must exist.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// Whether the file must exist. Only the default file need not.
    pub required: bool,
}

impl ConfigFile {
    /// Reads and checks the configuration, and opens the directories in it.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn load(&self) -> Result<Config, Error> {
        self.load_with(Directory::open)
    }

    /// Reads and checks the configuration. The directories in it are opened when they are first
    /// used.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn load_unopened(&self) -> Result<Config, Error> {
        self.load_with(|path| Ok(Directory::unopened(path)))
    }

    fn load_with(&self, open: OpenDirectory) -> Result<Config, Error> {
        let file = shown_path(&self.path);
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && !self.required => {
                String::new()
            }
            Err(cause) => return Err(Error::Unreadable { file, cause }),
        };
        parse(&text, open).map_err(|invalid| Error::Invalid {
            line: text[..invalid.offset.min(text.len())].matches('\n').count() + 1,
            file,
            reason: invalid.reason,
        })
    }
}

/// An error in the text.
struct Invalid {
    /// The offset in the text.
    offset: usize,
    reason: String,
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

/// A function that opens a directory of the configuration, or defers that.
type OpenDirectory = fn(&Path) -> Result<Directory, lock::Error>;

fn parse(text: &str, open: OpenDirectory) -> Result<Config, Invalid> {
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let hint = suggestion::unquoted(text, offset).map(|hint| format!("; {hint}"));
        Invalid { offset, reason: format!("{}{}", error.message(), hint.unwrap_or_default()) }
    })?;
    let table = table.get_ref();
    check_keys(table, KEYS)?;
    let settings = Settings::default();
    let mut config = Config { settings, log_level: Level::Info, virtlockd_socket: None };
    let locked = boolean(table, "auto_disk_leases")?.is_none_or(|(_, on)| on);
    config.settings.only_record_disks = !locked;
    // As in libvirt: if disks are not locked, leases are required by default.
    let required = boolean(table, "require_lease_for_disks")?.map(|(_, on)| on);
    config.settings.require_lease_for_disks = required.unwrap_or(!locked);
    let Lockspaces { file, lvm, scsi, .. } = &mut config.settings.lockspaces;
    for (key, lockspace) in
        [("file_lockspace_dir", file), ("lvm_lockspace_dir", lvm), ("scsi_lockspace_dir", scsi)]
    {
        if let Some((value, path)) = string(table, key)? {
            let opened =
                open(Path::new(path)).map_err(|error| invalid(value, error.to_string()))?;
            *lockspace = Some(Arc::new(opened));
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
            _ => return Err(invalid(value, "'privacy' must be \"open\" or \"private\"")),
        };
    }
    if let Some((value, word)) = string(table, "log_level")? {
        config.log_level = word.parse().map_err(|error: String| {
            let hint = suggestion::level(word).map(|word| format!("; write \"{word}\""));
            invalid(value, error + &hint.unwrap_or_default())
        })?;
    }
    if let Some((value, path)) = string(table, "virtlockd_socket")? {
        if !path.starts_with('/') {
            return Err(invalid(value, "'virtlockd_socket' must be an absolute path".to_owned()));
        }
        config.virtlockd_socket = Some(path.into());
    }
    if let Some(value) = table.get("limits") {
        let DeValue::Table(limits) = value.get_ref() else {
            return Err(invalid(value, "'limits' must be a table"));
        };
        read_limits(limits, &mut config.settings.limits)?;
    }
    Ok(config)
}

/// Reads the identity of this host in shared lockspaces, and whether holders are recorded there.
fn read_host(table: &Table<'_>, lockspaces: &mut Lockspaces) -> Result<(), Invalid> {
    let (id, name) = (string(table, "host_id")?, string(table, "host_name")?);
    let (id_text, name_text) = (id.map(|(_, text)| text), name.map(|(_, text)| text));
    for (key, given, host) in
        [("host_id", id, Host::new(id_text, None)), ("host_name", name, Host::new(None, name_text))]
    {
        if let (Some((value, _)), Err(why)) = (given, host) {
            return Err(invalid(value, format!("'{key}' {why}")));
        }
    }
    // Both are valid.
    lockspaces.host = Host::new(id_text, name_text).ok().flatten().map(Arc::new);
    if let Some((value, word)) = string(table, "record_holders")? {
        let error = || {
            let words = "\"lockspaces\", \"shared\", \"always\" or \"never\"";
            invalid(value, format!("'record_holders' must be {words}"))
        };
        lockspaces.recording = word.parse().map_err(|()| error())?;
    }
    Ok(())
}

fn read_limits(table: &Table<'_>, limits: &mut Limits) -> Result<(), Invalid> {
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
            let error = || invalid(value, format!("'{key}' must be a whole number, 1 or more"));
            *field = number.filter(|number| *number > 0).ok_or_else(error)?;
        }
    }
    Ok(())
}

/// Refuses unknown keys.
fn check_keys(table: &Table<'_>, known: &[&str]) -> Result<(), Invalid> {
    let unknown = |key: &&Spanned<_>| !known.contains(&AsRef::<str>::as_ref(key.get_ref()));
    let Some(key) = table.keys().find(unknown) else {
        return Ok(());
    };
    let (offset, key) = (key.span().start, AsRef::<str>::as_ref(key.get_ref()));
    let similar = nearest(key, known);
    let key = shown(key);
    let reason = match similar {
        Some(word) => format!("unknown key '{key}', did you mean '{word}'?"),
        None => format!("unknown key '{key}', known are: {}", known.join(", ")),
    };
    Err(Invalid { offset, reason })
}

fn invalid(value: &Value<'_>, reason: impl Into<String>) -> Invalid {
    Invalid { offset: value.span().start, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlockd.toml");
        fs::write(&path, text).unwrap();
        let error =
            ConfigFile { path: path.clone(), required: true }.load().unwrap_err().to_string();
        error.strip_prefix(&format!("{}:", path.display())).unwrap().to_owned()
    }

    #[test]
    fn an_unreadable_file_is_reported_without_an_error_number() {
        let source = ConfigFile { path: "/none/such.toml".into(), required: true };
        let message = source.load().unwrap_err().to_string();
        assert_eq!(message, "/none/such.toml: No such file or directory");
    }

    #[test]
    fn errors_have_a_line_number() {
        for (text, message) in [
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
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn a_file_of_libvirt_is_accepted() {
        let open: OpenDirectory = |path| Directory::open(path);
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
    fn only_an_explicit_file_must_exist() {
        let path = PathBuf::from("/none/such");
        assert!(ConfigFile { path: path.clone(), required: false }.load().is_ok());
        assert!(ConfigFile { path, required: true }.load().is_err());
    }
}

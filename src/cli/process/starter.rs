//! Determines what started the process of the service, and whether its executable was replaced
//! since then.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::cli::process::unit::Unit;

/// The program that started the service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Starter {
    /// systemd, as the main process of its unit.
    Systemd {
        /// The state of the unit, such as `active` or `reloading`.
        active: String,
        /// The state of the unit file, such as `enabled`; empty if there is no unit file.
        file: String,
    },
    /// A message bus without systemd, at the first call.
    Bus,
    /// Another program: a shell, an init script or libvirt.
    Other,
    /// Not known, since the process is not visible.
    Unknown,
}

/// The environment variable that a message bus sets for the services that it starts.
const BUS_VARIABLE: &[u8] = b"DBUS_STARTER_ADDRESS=";
/// The suffix that the kernel appends to the path of an executable that was unlinked or replaced.
const DELETED_SUFFIX: &str = " (deleted)";

impl Starter {
    /// Determines what started process `pid`, which owns the service's name on the bus.
    pub(crate) fn of(pid: Option<u32>, unit: Option<&Unit>) -> Self {
        let Some(pid) = pid else { return Self::Unknown };
        match unit {
            Some(unit) if unit.main_pid == u64::from(pid) => {
                Self::Systemd { active: unit.active.clone(), file: unit.state.clone() }
            }
            _ if !is_service(pid) => Self::Unknown,
            _ => match fs::read(format!("/proc/{pid}/environ")) {
                Ok(environment) if was_started_by_bus(&environment) => Self::Bus,
                Ok(_) => Self::Other,
                Err(_) => Self::Unknown,
            },
        }
    }

    /// Returns the word for JSON; `None` if the starter is not known.
    pub(crate) fn as_str(&self) -> Option<&'static str> {
        match self {
            Self::Systemd { .. } => Some("systemd"),
            Self::Bus => Some("bus"),
            Self::Other => Some("other"),
            Self::Unknown => None,
        }
    }

    /// Describes the starter for people.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Systemd { active, file } if file.is_empty() => {
                format!("by systemd (vmlockd.service: {active})")
            }
            Self::Systemd { active, file } => {
                format!("by systemd (vmlockd.service: {active}, {file})")
            }
            Self::Bus => "by the message bus, for a call".to_owned(),
            Self::Other => "by hand or by a script, not by systemd".to_owned(),
            Self::Unknown => "not known".to_owned(),
        }
    }
}

/// Whether the PID is that of the service in this PID namespace, too.
fn is_service(pid: u32) -> bool {
    name(pid).is_some_and(|name| name.trim() == "vmlockd")
}

/// Returns the name of a process.
fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

/// Whether this is the environment of a service that was started by a message bus.
fn was_started_by_bus(environment: &[u8]) -> bool {
    environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(BUS_VARIABLE))
}

/// Returns the path of the installed executable if it is not the file that process `pid` executes;
/// `None` also if this user may not see that.
pub(crate) fn replaced_executable(pid: u32) -> Option<PathBuf> {
    let executed = PathBuf::from(format!("/proc/{pid}/exe"));
    let link = fs::read_link(&executed).ok()?;
    let id = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let link = link.to_string_lossy();
    let installed = PathBuf::from(link.strip_suffix(DELETED_SUFFIX).unwrap_or(&link));
    let (executed, there) = (id(&executed)?, id(&installed)?);
    (is_service(pid) && executed != there).then_some(installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_recognized_by_its_variable() {
        assert!(was_started_by_bus(b"A=b\0DBUS_STARTER_ADDRESS=unix:path=/run/bus\0"));
        assert!(!was_started_by_bus(b"X_DBUS_STARTER_ADDRESS=a\0B=DBUS_STARTER_ADDRESS=\0"));
    }

    #[test]
    fn a_process_that_is_not_the_service_is_not_described() {
        assert_eq!(Starter::of(None, None), Starter::Unknown);
        assert_eq!(Starter::of(Some(std::process::id()), None), Starter::Unknown);
        assert_eq!(replaced_executable(std::process::id()), None);
    }
}

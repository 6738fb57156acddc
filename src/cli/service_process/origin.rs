//! How the process of the service was started, and whether its executable has been replaced since.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::cli::service_process::unit::Unit;

/// What started the service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// systemd, as the main process of its unit.
    Systemd {
        /// `active`, `reloading` and the like.
        active: String,
        /// `enabled`, `disabled` and the like; empty without a unit file.
        file: String,
    },
    /// A message bus without systemd, for the first call.
    Bus,
    /// Another program: a shell, an init script or libvirt.
    Other,
    /// Not known, since the process cannot be seen.
    Unknown,
}

/// The variable that a message bus sets for the services that it starts.
const STARTER: &[u8] = b"DBUS_STARTER_ADDRESS=";
/// What the kernel appends to the name of an executable that was unlinked or replaced.
const DELETED: &str = " (deleted)";

impl Origin {
    /// Returns what started process `pid`, the one that has the service's name on the bus.
    pub(crate) fn of(pid: Option<u32>, unit: Option<&Unit>) -> Self {
        let Some(pid) = pid else { return Self::Unknown };
        match unit {
            Some(unit) if unit.main_pid == u64::from(pid) => {
                Self::Systemd { active: unit.active.clone(), file: unit.state.clone() }
            }
            _ if !is_service(pid) => Self::Unknown,
            _ => match fs::read(format!("/proc/{pid}/environ")) {
                Ok(environment) if is_of_bus(&environment) => Self::Bus,
                Ok(_) => Self::Other,
                Err(_) => Self::Unknown,
            },
        }
    }

    /// The word for programs; `None` if it is not known.
    pub(crate) fn word(&self) -> Option<&'static str> {
        match self {
            Self::Systemd { .. } => Some("systemd"),
            Self::Bus => Some("bus"),
            Self::Other => Some("other"),
            Self::Unknown => None,
        }
    }

    /// The words for people.
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

/// Whether a process number means the service here, too: in another PID namespace it may be that of
/// another process.
fn is_service(pid: u32) -> bool {
    name(pid).is_some_and(|name| name.trim() == "vmlockd")
}

fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

/// Whether an environment is that of a service which a message bus has started.
fn is_of_bus(environment: &[u8]) -> bool {
    environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(STARTER))
}

/// Returns the installed executable if it is another file than the one that process `pid` executes.
/// `None` also where this user may not look.
pub(crate) fn replaced(pid: u32) -> Option<PathBuf> {
    let executed = PathBuf::from(format!("/proc/{pid}/exe"));
    let link = fs::read_link(&executed).ok()?;
    let id = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let link = link.to_string_lossy();
    let installed = PathBuf::from(link.strip_suffix(DELETED).unwrap_or(&link));
    let (executed, there) = (id(&executed)?, id(&installed)?);
    (is_service(pid) && executed != there).then_some(installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_known_by_its_variable() {
        assert!(is_of_bus(b"A=b\0DBUS_STARTER_ADDRESS=unix:path=/run/bus\0"));
        assert!(!is_of_bus(b"X_DBUS_STARTER_ADDRESS=a\0B=DBUS_STARTER_ADDRESS=\0"));
    }

    #[test]
    fn a_process_that_is_not_the_service_is_not_described() {
        assert_eq!(Origin::of(None, None), Origin::Unknown);
        assert_eq!(Origin::of(Some(std::process::id()), None), Origin::Unknown);
        assert_eq!(replaced(std::process::id()), None);
    }
}

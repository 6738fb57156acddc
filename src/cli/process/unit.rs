//! Reads the unit of the service from systemd.

use zbus::fdo::{DBusProxy, PropertiesProxy};
use zbus::names::{BusName, InterfaceName};
use zbus::{ObjectPath, OwnedObjectPath, Proxy};

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::format::row;
use crate::client::Row;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// The properties of the unit that matter to locks.
#[derive(Debug)]
pub(crate) struct Unit {
    /// The version of systemd; 0 if it cannot be parsed.
    pub(crate) systemd: u32,
    /// The PID of the main process, or 0.
    pub(crate) main_pid: u64,
    /// The maximum number of descriptors in the file descriptor store.
    pub(crate) store_max: u64,
    /// The number of descriptors in the file descriptor store.
    pub(crate) stored: u64,
    /// `FileDescriptorStorePreserve=`; empty if systemd does not have that setting.
    pub(crate) preserve: String,
    /// The state of the unit, such as `active`.
    pub(crate) active: String,
    /// The state of the unit file, such as `enabled`; empty if there is no unit file.
    pub(crate) state: String,
}

impl Unit {
    /// Reads the unit from the systemd on the bus, without activating it. Returns `None` if there
    /// is none.
    pub(crate) async fn read(service: &ServiceConnection) -> Result<Option<Self>, Error> {
        let bus = DBusProxy::new(service.bus_connection().await?).await?;
        if !bus.name_has_owner(BusName::try_from(SYSTEMD)?).await? {
            return Ok(None);
        }
        let path = "/org/freedesktop/systemd1";
        let manager: Proxy<'_> =
            Proxy::new(service.bus_connection().await?, SYSTEMD, path, MANAGER).await?;
        let version: String = manager.get_property("Version").await?;
        // Allowed for all users. systemd unloads the unit again if it is not in use.
        let unit: OwnedObjectPath = manager.call("LoadUnit", &("vmlockd.service",)).await?;
        let of_unit = properties(service, &unit, UNIT).await?;
        let of_service = properties(service, &unit, SERVICE).await?;
        Ok(Some(Self {
            systemd: number(&version),
            main_pid: row::number(&of_service, "MainPID"),
            store_max: row::number(&of_service, "FileDescriptorStoreMax"),
            stored: row::number(&of_service, "NFileDescriptorStore"),
            preserve: row::text(&of_service, "FileDescriptorStorePreserve").to_owned(),
            active: row::text(&of_unit, "ActiveState").to_owned(),
            state: row::text(&of_unit, "UnitFileState").to_owned(),
        }))
    }

    /// Returns why a stop of the service would release its locks, and advice; `None` if it would
    /// not.
    pub(crate) fn lock_loss_at_stop(&self) -> Option<(String, &'static str)> {
        if self.systemd < 254 {
            let why = format!(
                "'systemctl stop' releases all locks until the service is started again, since systemd \
                 {} drops the descriptors of a stopped service (254 and later keep them)",
                self.systemd
            );
            return Some((why, "while VMs run, use 'systemctl restart', not 'systemctl stop'"));
        }
        if self.preserve != "yes" {
            let preserve = &self.preserve;
            let why = format!(
                "'systemctl stop' releases all locks until the service is started again: its unit has \
                 FileDescriptorStorePreserve={preserve}"
            );
            return Some((why, "set it to 'yes' with 'systemctl edit vmlockd'"));
        }
        if !matches!(self.state.as_str(), "enabled" | "enabled-runtime") {
            let state = if self.state.is_empty() { "not installed as a file" } else { &self.state };
            let why = format!(
                "'systemctl stop' may release all locks until the service is started again: its unit is \
                 {state}, so systemd may unload it"
            );
            return Some((why, "run 'systemctl enable vmlockd'"));
        }
        None
    }
}

async fn properties(
    service: &ServiceConnection,
    path: &ObjectPath<'_>,
    interface: &str,
) -> Result<Row, Error> {
    let builder = PropertiesProxy::builder(service.bus_connection().await?).destination(SYSTEMD);
    let proxy = builder.path(path.to_owned()).build().await?;
    Ok(proxy.get_all(InterfaceName::try_from(interface)?).await?)
}

/// Parses the number at the start of a version such as `252.39-1~deb12u2`.
fn number(version: &str) -> u32 {
    let digits = |c: char| !c.is_ascii_digit();
    version.split(digits).next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(systemd: u32, preserve: &str, state: &str) -> Unit {
        let (preserve, state) = (preserve.to_owned(), state.to_owned());
        let active = "active".to_owned();
        Unit { systemd, main_pid: 1, store_max: 128, stored: 4, preserve, active, state }
    }

    #[test]
    fn a_stop_keeps_locks_only_with_all_settings() {
        for (systemd, preserve, state, expected) in [
            (252, "", "enabled", "systemd 252 drops the descriptors"),
            (254, "restart", "enabled", "FileDescriptorStorePreserve=restart"),
            (257, "yes", "disabled", "its unit is disabled"),
            (257, "yes", "static", "its unit is static"),
            (257, "yes", "", "its unit is not installed as a file"),
        ] {
            let (why, _) = unit(systemd, preserve, state).lock_loss_at_stop().unwrap();
            assert!(why.contains(expected), "{why}");
        }
        assert_eq!(unit(254, "yes", "enabled").lock_loss_at_stop(), None);
    }

    #[test]
    fn versions_begin_with_a_number() {
        for (text, version) in [("252.39-1~deb12u2", 252), ("257", 257), ("v255-rc1", 0)] {
            assert_eq!(number(text), version);
        }
    }
}

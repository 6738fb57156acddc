//! The other instance of vmlockd: the user's instance beside the host's, or the host's beside the
//! user's.
//!
//! An instance sees locks of other instances only in the kernel, which reports at most a process.
//! If the first instance reports no owner, the other instance is called.

use std::path::Path;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::timeout;
use zbus::Variant;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::format::holder::BUS;
use crate::cli::format::row;
use crate::cli::target::lookup;
use crate::client::{Bus, Row, SERVICE};

/// The timeout of a query to the other instance.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The other instance. Connected to when it is first needed.
#[derive(Debug)]
pub(crate) struct OtherInstance {
    bus: Bus,
    /// The connection; `None` if there is no such instance.
    service: OnceCell<Option<ServiceConnection>>,
}

impl OtherInstance {
    /// Returns the instance on the other bus.
    pub(crate) fn besides(bus: Bus) -> Self {
        let bus = match bus {
            Bus::System => Bus::Session,
            Bus::Session => Bus::System,
        };
        Self { bus, service: OnceCell::new() }
    }

    /// Adds the owners of the other instance that hold a disk, if the first instance reports none.
    /// Does not start the other instance.
    ///
    /// # Errors
    ///
    /// Fails if the other instance is running but does not reply.
    pub(crate) async fn add_owners(
        &self,
        path: &Path,
        holders: &mut Vec<Row>,
    ) -> Result<(), Error> {
        if holders.iter().any(|holder| row::text(holder, "kind") == "owner") {
            return Ok(());
        }
        let late = |_| Error::Unavailable("it does not respond".to_owned());
        let owners = timeout(TIMEOUT, self.owners(path)).await.map_err(late)??;
        if !owners.is_empty() {
            holders.retain(|holder| !is_other_instance(holder));
            holders.extend(owners);
        }
        Ok(())
    }

    /// Returns the bus of the other instance.
    pub(crate) fn bus(&self) -> Bus {
        self.bus
    }

    async fn owners(&self, path: &Path) -> Result<Vec<Row>, Error> {
        let service = self.service.get_or_init(|| connect(self.bus)).await;
        let Some(service) = service else { return Ok(Vec::new()) };
        let mut owners = lookup::holders(service, path).await?;
        owners.retain(|holder| row::text(holder, "kind") == "owner");
        for owner in &mut owners {
            owner.insert(BUS.to_owned(), Variant::from(self.bus.as_str()).try_into()?);
        }
        Ok(owners)
    }
}

/// Connects to a bus if the service is running on it.
async fn connect(bus: Bus) -> Option<ServiceConnection> {
    let service = ServiceConnection::connect_via_bus(bus).await.ok()?;
    let proxy = DBusProxy::new(service.bus_connection().await.ok()?).await.ok()?;
    let is_running = proxy.name_has_owner(BusName::try_from(SERVICE).ok()?).await.ok()?;
    is_running.then(|| service.without_activation())
}

/// Whether a holder is the other instance as the kernel reports it: its process, or an exclusive
/// lock without a process.
fn is_other_instance(holder: &Row) -> bool {
    match row::text(holder, "kind") {
        "process" => is_vmlockd(holder),
        "unknown" | "hidden" => row::text(holder, "mode") == "exclusive",
        _ => false,
    }
}

/// Whether a holder is a process of vmlockd.
pub(crate) fn is_vmlockd(holder: &Row) -> bool {
    row::text(holder, "kind") == "process" && row::text(holder, "program") == "vmlockd"
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::OwnedVariant;

    #[test]
    fn the_owners_of_the_other_instance_replace_only_its_own_process() {
        let row = |entries: &[(&str, &str)]| -> Row {
            let owned = |text: &str| OwnedVariant::try_from(Variant::from(text)).unwrap();
            entries.iter().map(|(key, value)| ((*key).to_owned(), owned(value))).collect()
        };
        for (entries, is) in [
            (&[("kind", "process"), ("program", "vmlockd")][..], true),
            (&[("kind", "process"), ("program", "virtlockd")], false),
            (&[("kind", "unknown"), ("mode", "exclusive")], true),
            (&[("kind", "unknown"), ("mode", "shared")], false),
            (&[("kind", "hidden"), ("mode", "exclusive")], true),
            (&[("kind", "opener"), ("program", "vmlockd")], false),
        ] {
            assert_eq!(is_other_instance(&row(entries)), is, "{entries:?}");
        }
    }
}

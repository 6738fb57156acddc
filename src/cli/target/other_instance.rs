//! The other instance of vmlockd: the user's own, for the host's; the host's, for the user's own.
//!
//! An instance knows the locks of other instances from the kernel only, which names a process at
//! most. If an instance names no owner, the other instance is called.

use std::path::Path;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::timeout;
use zbus::Variant;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::format::row;
use crate::cli::target::lookup;
use crate::client::{Bus, Row, SERVICE};

/// How long the other instance may take for its answers to one command.
const LIMIT: Duration = Duration::from_secs(5);
/// The key under which a holder tells on which bus it was found, if on another than the one that was
/// asked for.
pub(crate) const BUS: &str = "bus";

/// The other instance, connected to when it is first needed.
#[derive(Debug)]
pub(crate) struct Other {
    bus: Bus,
    /// The connection, or that there is no such instance.
    link: OnceCell<Option<Link>>,
}

impl Other {
    /// The instance on the other bus than this one.
    pub(crate) fn than(bus: Bus) -> Self {
        let bus = match bus {
            Bus::System => Bus::Session,
            Bus::Session => Bus::System,
        };
        Self { bus, link: OnceCell::new() }
    }

    /// Adds the owners of the other instance that hold a disk, where the first instance names none.
    /// Nothing is started for that. Fails where the other instance is there and does not say.
    pub(crate) async fn complete(&self, path: &Path, holders: &mut Vec<Row>) -> Result<(), Error> {
        if holders.iter().any(|holder| row::text(holder, "kind") == "owner") {
            return Ok(());
        }
        let late = |_| Error::Absent("it does not respond".to_owned());
        let owners = timeout(LIMIT, self.owners(path)).await.map_err(late)??;
        if !owners.is_empty() {
            holders.retain(|holder| !is_other_instance(holder));
            holders.extend(owners);
        }
        Ok(())
    }

    /// The bus of the other instance.
    pub(crate) fn bus(&self) -> Bus {
        self.bus
    }

    async fn owners(&self, path: &Path) -> Result<Vec<Row>, Error> {
        let link = self.link.get_or_init(|| connect(self.bus)).await;
        let Some(link) = link else { return Ok(Vec::new()) };
        let mut owners = lookup::holders(link, path).await?;
        owners.retain(|holder| row::text(holder, "kind") == "owner");
        for owner in &mut owners {
            owner.insert(BUS.to_owned(), Variant::from(self.bus.as_str()).try_into()?);
        }
        Ok(owners)
    }
}

/// Connects to a bus if the service is there already.
async fn connect(bus: Bus) -> Option<Link> {
    let link = Link::open(bus).await.ok()?;
    let proxy = DBusProxy::new(link.bus().await.ok()?).await.ok()?;
    let there = proxy.name_has_owner(BusName::try_from(SERVICE).ok()?).await.ok()?;
    there.then(|| link.into_running())
}

/// Whether a holder is nothing but the other instance as the kernel knows it: its process, or an
/// exclusive lock of which no process is named.
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
    fn only_what_is_the_other_instance_gives_way_to_its_owners() {
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

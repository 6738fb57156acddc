//! Lists that the service has no method for, or that several commands read.

use zbus::fdo::{DBusProxy, IntrospectableProxy};
use zbus::names::BusName;
use zbus::{ObjectPath, Variant};

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::format::row;
use crate::client::{LOCKSPACES_PATH, ManagerProxy, Options, Row, SERVICE, lists};

const LOCKSPACE: &str = "org.vmlockd1.Lockspace";

impl ServiceConnection {
    /// Returns all locks, with the state of their names as far as the service reports it.
    pub(crate) async fn locks(&self) -> Result<Vec<Row>, Error> {
        let checked = Options::from([("check-names", true.into())]);
        Ok(lists::locks(&self.manager().await?, checked).await?)
    }

    /// Returns the locks that a suspended owner has released and acquires again when it is resumed.
    pub(crate) async fn suspended_locks(&self, owner: &Row) -> Result<Vec<Row>, Error> {
        let Some(path) = row::path(owner, "owner") else { return Ok(Vec::new()) };
        let mut filter = lists::path_option("owner", path);
        filter.insert("suspended", true.into());
        Ok(lists::locks(&self.manager().await?, filter).await?)
    }

    /// Returns all lockspaces with their properties, and with their paths under the key
    /// `lockspace`.
    pub(crate) async fn lockspaces(&self) -> Result<Vec<Row>, Error> {
        // The reply of the object manager includes all locks, and may be too large.
        let folder = IntrospectableProxy::builder(self.connection().await?)
            .destination(self.destination().await?);
        let folder = folder.path(LOCKSPACES_PATH).build().await?.introspect().await?;
        let mut lockspaces = Vec::new();
        for name in child_names(&folder) {
            let path = ObjectPath::try_from(format!("{LOCKSPACES_PATH}/{name}"))?;
            let mut properties = match self.properties(&path, LOCKSPACE).await {
                // The lockspace was removed meanwhile.
                Err(error) if error.is_no_such_object() => continue,
                properties => properties?,
            };
            properties.insert("lockspace".to_owned(), Variant::from(path).try_into()?);
            lockspaces.push(properties);
        }
        lockspaces.sort_by_key(|row: &Row| sort_key(row::text(row, "name")));
        Ok(lockspaces)
    }

    /// Returns the PID of the service, as the bus reports it.
    pub(crate) async fn pid(&self) -> Result<u32, Error> {
        let bus = DBusProxy::new(self.bus_connection().await?).await?;
        Ok(bus.get_connection_unix_process_id(BusName::try_from(SERVICE)?).await?)
    }
}

/// Whether the service reports that systemd stores its descriptors.
pub(crate) async fn has_fd_store(manager: &ManagerProxy<'_>) -> Result<bool, Error> {
    Ok(manager.features().await?.iter().any(|feature| feature == "fd-store"))
}

/// Returns the names of an object's children, from its introspection data.
fn child_names(xml: &str) -> impl Iterator<Item = &str> {
    let names = xml.split("<node name=\"").skip(1);
    names.filter_map(|rest| rest.split_once('"').map(|(name, _)| name))
}

/// Returns the sort key of a name: names without a number first, then by number.
fn sort_key(name: &str) -> (u64, String) {
    let number = name.rsplit('_').next().and_then(|number| number.parse().ok());
    (number.unwrap_or_default(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_by_their_names() {
        let xml = "<node>\n  <node name=\"direct\"/>\n  <node name=\"lease_1\"/>\n</node>\n";
        assert_eq!(child_names(xml).collect::<Vec<_>>(), ["direct", "lease_1"]);
        assert_eq!(child_names("<node/>").count(), 0);
    }

    #[test]
    fn lockspaces_are_sorted_by_their_numbers() {
        let mut names = ["lease_10", "file", "lease_9", "direct"];
        names.sort_by_key(|name| sort_key(name));
        assert_eq!(names, ["direct", "file", "lease_9", "lease_10"]);
    }
}

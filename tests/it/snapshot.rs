//! Owners and locks as the service lists them.

use std::collections::BTreeMap;

use vmlockd::client::Row;
use zbus::Connection;

use crate::dbus_client::manager;
use crate::fixture::within;
use crate::methods::none;

/// A row, its values in words.
pub(crate) type Entry = BTreeMap<String, String>;

/// The listed objects, without the verification state of locks since a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// By their paths.
    pub(crate) owners: BTreeMap<String, Entry>,
    /// By their numbers.
    pub(crate) locks: BTreeMap<u64, Entry>,
}

impl Listed {
    /// Asks for it.
    pub(crate) async fn by(bus: &Connection) -> Self {
        let manager = manager(bus).await;
        let owners = within("owners", manager.list_owners(none())).await.unwrap();
        let locks = within("locks", manager.list_locks(none())).await.unwrap();
        let owners = owners.iter().map(|row| (text(row, "owner"), entry(row))).collect();
        let number = |row: &Row| u64::try_from(&row["generation"]).unwrap();
        let locks = locks.iter().map(|row| (number(row), entry(row))).collect();
        Self { owners, locks }
    }

    /// The locks on a resource.
    pub(crate) fn on(&self, resource: &str) -> impl Iterator<Item = &Entry> {
        self.locks.values().filter(move |lock| lock["resource"] == resource)
    }
}

/// A word of a row.
pub(crate) fn text(row: &Row, key: &str) -> String {
    let value = &row[key];
    if let Ok(text) = <&str>::try_from(value) {
        return text.to_owned();
    }
    let path = value.try_clone().unwrap().try_into();
    path.map_or_else(|_| format!("{value:?}"), |path: zbus::OwnedObjectPath| path.to_string())
}

fn entry(row: &Row) -> Entry {
    let lasting = row.keys().filter(|key| !matches!(key.as_str(), "verified" | "lost"));
    lasting.map(|key| (key.clone(), text(row, key))).collect()
}

//! Whole lists, read page by page.
//!
//! A reply of the service has a largest size, so a client that wants all rows asks for page after
//! page until one is empty. Rows that come or go meanwhile may be seen or not; every other row is
//! seen once. A service from before there were pages lists all rows, also those that a filter
//! excludes.

use zbus::names::ErrorName;
use zbus::{ObjectPath, OwnedVariant, Variant};

use super::{ManagerProxy, Options, Row};

/// How many rows are asked for at a time: few enough that the service and the bus are free for
/// others in between.
const ROWS: u32 = 512;

/// Lists all locks that `filter` lets through: options of `ListLocks` but for `after` and `limit`.
///
/// # Errors
///
/// As for [`ManagerProxy::list_locks`].
pub async fn locks(manager: &ManagerProxy<'_>, filter: Options<'_>) -> zbus::Result<Vec<Row>> {
    all(filter, "generation", |options| manager.list_locks(options)).await
}

/// Lists all owners.
///
/// # Errors
///
/// As for [`ManagerProxy::list_owners`].
pub async fn owners(manager: &ManagerProxy<'_>) -> zbus::Result<Vec<Row>> {
    all(Options::new(), "owner", |options| manager.list_owners(options)).await
}

/// Lists all waiting requests that `filter` lets through: options of `ListWaiting` but for `after`
/// and `limit`.
///
/// # Errors
///
/// As for [`ManagerProxy::list_waiting`].
pub async fn waiting(manager: &ManagerProxy<'_>, filter: Options<'_>) -> zbus::Result<Vec<Row>> {
    all(filter, "ticket", |options| manager.list_waiting(options)).await
}

/// An option with the path of an object.
#[must_use]
pub fn path_option<'p>(key: &'static str, path: &'p ObjectPath<'_>) -> Options<'p> {
    Options::from([(key, Variant::from(path.as_ref()))])
}

/// Reads pages until one is empty; `key` is what the next page begins after.
async fn all<'f, P>(
    filter: Options<'f>,
    key: &str,
    mut page: impl FnMut(Options<'f>) -> P,
) -> zbus::Result<Vec<Row>>
where
    P: Future<Output = zbus::Result<Vec<Row>>>,
{
    let mut options = filter;
    options.insert("limit", ROWS.into());
    let mut rows = match page(options.clone()).await {
        // An older service knows none of these options.
        Err(zbus::Error::MethodError(name, ..)) if is_invalid(&name) => {
            return page(Options::new()).await;
        }
        Err(zbus::Error::FDO(error)) if is_invalid(&zbus::DBusError::name(&error)) => {
            return page(Options::new()).await;
        }
        rows => rows?,
    };
    loop {
        let Some(last) = rows.last().and_then(|row| row.get(key)) else { return Ok(rows) };
        options.insert("after", Variant::from(OwnedVariant::try_clone(last)?));
        let more = page(options.clone()).await?;
        if more.is_empty() {
            return Ok(rows);
        }
        rows.extend(more);
    }
}

fn is_invalid(name: &ErrorName<'_>) -> bool {
    name.as_str() == "org.freedesktop.DBus.Error.InvalidArgs"
}

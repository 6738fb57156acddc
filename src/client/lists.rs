//! Reads complete lists page by page.
//!
//! Replies of the service have a maximum size, so a client that needs all rows requests pages until
//! one is empty. Rows that are added or removed meanwhile may be missing; each other row is
//! returned once. A service without support for pages returns all rows, even those that the filter
//! excludes.

use zbus::names::ErrorName;
use zbus::{ObjectPath, OwnedVariant, Variant};

use super::{ManagerProxy, Options, Row};

/// The number of rows of a page: small enough that other clients can call the service between
/// pages.
const PAGE_SIZE: u32 = 512;

/// Lists all locks that match `filter`: options of `ListLocks` other than `after` and `limit`.
///
/// # Errors
///
/// Returns the error of [`ManagerProxy::list_locks`].
pub async fn locks(manager: &ManagerProxy<'_>, filter: Options<'_>) -> zbus::Result<Vec<Row>> {
    read_pages(filter, "generation", |options| manager.list_locks(options)).await
}

/// Lists all owners.
///
/// # Errors
///
/// Returns the error of [`ManagerProxy::list_owners`].
pub async fn owners(manager: &ManagerProxy<'_>) -> zbus::Result<Vec<Row>> {
    read_pages(Options::new(), "owner", |options| manager.list_owners(options)).await
}

/// Lists all waiting requests that match `filter`: options of `ListWaiting` other than `after` and
/// `limit`.
///
/// # Errors
///
/// Returns the error of [`ManagerProxy::list_waiting`].
pub async fn waiting(manager: &ManagerProxy<'_>, filter: Options<'_>) -> zbus::Result<Vec<Row>> {
    read_pages(filter, "ticket", |options| manager.list_waiting(options)).await
}

/// Returns an option with the path of an object.
#[must_use]
pub fn path_option<'p>(key: &'static str, path: &'p ObjectPath<'_>) -> Options<'p> {
    Options::from([(key, Variant::from(path.as_ref()))])
}

/// Reads pages until one is empty. The next page begins after the value of `key` in the last row.
async fn read_pages<'f, P>(
    filter: Options<'f>,
    key: &str,
    mut page: impl FnMut(Options<'f>) -> P,
) -> zbus::Result<Vec<Row>>
where
    P: Future<Output = zbus::Result<Vec<Row>>>,
{
    let mut options = filter;
    options.insert("limit", PAGE_SIZE.into());
    let mut rows = match page(options.clone()).await {
        // An older service does not have these options.
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
        let next = page(options.clone()).await?;
        if next.is_empty() {
            return Ok(rows);
        }
        rows.extend(next);
    }
}

fn is_invalid(name: &ErrorName<'_>) -> bool {
    name.as_str() == "org.freedesktop.DBus.Error.InvalidArgs"
}

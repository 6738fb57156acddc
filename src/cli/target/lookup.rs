//! Finds the owners, locks and holders that arguments name.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::format::holder::describe_holder;
use crate::cli::format::row;
use crate::cli::target::disk_file;
use crate::cli::terminal::slow_reply::report_slow;
use crate::client::{OWNERS_PATH, Options, Row};
use crate::lock::model::lease_name::spoken;
use crate::lock::model::owner::parse_uuid;
use crate::lock::text::escape::{shown_path, spelt_path};

/// The minimum length of the first digits of a UUID that stand for it.
const PREFIX_MIN: usize = 4;

/// Returns the owner with this object path, UUID, first digits of its UUID, or name. If there are
/// several, returns the only one of user `uid`.
pub(crate) fn owner<'r>(owners: &'r [Row], text: &str, uid: u32) -> Result<&'r Row, Error> {
    let uuid = parse_uuid(text).ok().filter(|_| !text.is_empty()).map(|uuid| uuid.to_string());
    let prefix = (text.len() >= PREFIX_MIN).then(|| text.to_ascii_lowercase());
    let means = |owner: &&Row| {
        if is_owner_path(text) {
            return row::text(owner, "owner") == text;
        }
        let owner_uuid = row::text(owner, "uuid");
        uuid.as_ref().map_or_else(
            || {
                row::text(owner, "name") == text
                    || prefix.as_ref().is_some_and(|prefix| owner_uuid.starts_with(prefix))
            },
            |uuid| owner_uuid == uuid,
        )
    };
    let found: Vec<&Row> = owners.iter().filter(means).collect();
    match only_match(&found, uid) {
        Some(owner) => Ok(owner),
        None if found.is_empty() => {
            if let Some(error) = disk_file::directory_error(Path::new(text)) {
                return Err(error);
            }
            let hint = if is_owner_path(text) {
                ""
            } else {
                ", and no disk of this name in the current directory"
            };
            Err(Error::Missing(format!(
                "there is no owner '{text}'{hint}; 'vmlockctl owners' lists the owners"
            )))
        }
        None => {
            let names = row::owner_names(found);
            Err(Error::Usage(format!(
                "'{text}' can mean each of the owners {names}; give the UUID, or more of it"
            )))
        }
    }
}

/// Whether a text is the object path of an owner.
fn is_owner_path(text: &str) -> bool {
    text.strip_prefix(OWNERS_PATH).is_some_and(|rest| rest.starts_with('/'))
}

/// Returns the only row, or the only row of this user; `None` if there is no such row.
fn only_match<'r>(rows: &[&'r Row], uid: u32) -> Option<&'r Row> {
    let own = |owner: &&&Row| row::number(owner, "uid") == u64::from(uid);
    match rows {
        [only] => Some(only),
        _ => match rows.iter().filter(own).collect::<Vec<_>>().as_slice() {
            [only] => Some(only),
            _ => None,
        },
    }
}

/// Returns the holders of a disk. If the service does not resolve names for this user, the disk is
/// opened if possible, as a descriptor proves that the user may query it. Also returns locks that
/// were acquired by this name, even if the name now leads to another file, or to none.
pub(crate) async fn holders(service: &ServiceConnection, path: &Path) -> Result<Vec<Row>, Error> {
    let query = async {
        // For a user without authorization, the service does not resolve the name.
        if !service.sends_names()
            && let Some(error) = disk_file::directory_error(path)
        {
            return Err(error);
        }
        match query_holders(service, path).await {
            Err(error) if service.sends_descriptors_after(&error) => {
                query_holders(service, path).await
            }
            Err(error) if error.is_not_lockable() => {
                Err(disk_file::directory_error(path).unwrap_or(error))
            }
            answer => answer,
        }
    };
    report_slow([path], query).await
}

async fn query_holders(service: &ServiceConnection, path: &Path) -> Result<Vec<Row>, Error> {
    let manager = service.manager().await?;
    let mut found = None;
    if (!service.sends_names() || path.to_str().is_none())
        && let Some(file) = disk_file::open_for_query(path)
    {
        let holders = manager.find_holders_of_file(file.as_fd().into(), Options::new()).await;
        // If this is the canonical name, the reply includes the locks by name.
        let is_its_name = fs::canonicalize(path).is_ok_and(|name| name == path);
        match holders {
            Ok(holders) if is_its_name => return Ok(holders),
            holders => found = holders.ok(),
        }
    }
    let named = manager.find_holders(&spelt_path(path), Options::new()).await;
    let Some(mut found) = found else { return Ok(named?) };
    for holder in named.unwrap_or_default() {
        let same = |key, known: &Row| row::text(known, key) == row::text(&holder, key);
        let is_known = |known: &Row| {
            same("lock", known)
                && same("kind", known)
                && row::number(known, "pid") == row::number(&holder, "pid")
        };
        if !found.iter().any(is_known) {
            found.push(holder);
        }
    }
    Ok(found)
}

/// Returns the only lock on a disk; with `whose`, the only one of this user's owners.
pub(crate) async fn lock_on(
    service: &ServiceConnection,
    path: &Path,
    whose: Option<u32>,
) -> Result<Row, Error> {
    let disk = spoken(&shown_path(path));
    let holders = holders(service, path).await?;
    let counts = |holder: &&Row| {
        row::text(holder, "kind") == "owner"
            && whose.is_none_or(|uid| row::number(holder, "uid") == u64::from(uid))
    };
    let found: Vec<&Row> = holders.iter().filter(counts).collect();
    // If several files have had the name, the path is ambiguous.
    let is_clear = found.len() < 2 || found.iter().all(|lock| row::name_state_text(lock).is_none());
    if let Some(lock) = only_match(&found, service.uid).filter(|_| is_clear) {
        return Ok(lock.clone());
    }
    if found.is_empty() {
        // A process that only has the disk open has no lock to release.
        let holder = holders.iter().find(|holder| row::text(holder, "kind") != "opener");
        return Err(match (holder, whose) {
            (Some(holder), Some(_)) => {
                let holder = describe_holder(&shown_path(path), holder);
                Error::Missing(format!("this user has not locked it: {holder}"))
            }
            (Some(holder), None) => Error::Failed(format!(
                "vmlockd cannot release it: {}",
                describe_holder(&shown_path(path), holder)
            )),
            (None, _) => Error::Missing(format!("{disk} is not locked")),
        });
    }
    let name = |lock: &&Row| {
        let state = match row::text(lock, "name-state") {
            "" => String::new(),
            state => format!(", {state}"),
        };
        format!("{} (VM \"{}\"{state})", row::lock_number(lock), row::text(lock, "name"))
    };
    let names = found.iter().map(name).collect::<Vec<_>>().join(", ");
    Err(Error::Usage(format!(
        "{disk} is locked several times, by locks {names}; give the number of one in place of the path"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    fn row(uuid: &str, name: &str, uid: u32) -> Row {
        let owned = |value: Variant<'_>| OwnedVariant::try_from(value).unwrap();
        [("uuid", Variant::from(uuid)), ("name", name.into()), ("uid", uid.into())]
            .map(|(key, value)| (key.to_owned(), owned(value)))
            .into()
    }

    #[test]
    fn an_owner_is_found_by_uuid_prefix_and_name() {
        let owners = [
            row("4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "web1", 0),
            row("4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "mine", 1000),
            row("4dea9999-1d52-d8f3-2516-782e98ab3fa0", "web2", 0),
            row("beef0000-1d52-d8f3-2516-782e98ab3fa0", "web1", 0),
        ];
        let found = |text, uid| owner(&owners, text, uid).map(|row| row::text(row, "name"));
        assert_eq!(found("4DEA22B31D52D8F32516782E98AB3FA0", 0).unwrap(), "web1");
        assert_eq!(found("4dea22b3-1d52-d8f3-2516-782e98ab3fa0", 1000).unwrap(), "mine");
        assert_eq!(found("4dea9", 0).unwrap(), "web2");
        assert_eq!(found("BEEF", 0).unwrap(), "web1");
        assert_eq!(found("web2", 5).unwrap(), "web2");
        for (text, uid) in
            [("4dea", 0), ("web1", 1000), ("4dea22b3-1d52-d8f3-2516-782e98ab3fa0", 5)]
        {
            assert!(matches!(found(text, uid), Err(Error::Usage(_))), "{text}");
        }
        for text in ["bee", "", "web3", "beef0000-1d52-d8f3-2516-782e98ab3fa1"] {
            assert!(matches!(found(text, 0), Err(Error::Missing(_))), "{text}");
        }
    }
}

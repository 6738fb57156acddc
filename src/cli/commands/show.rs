//! `show`: prints the properties of an owner, of a lock, or of the holders of a disk.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;
use zbus::Variant;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::clock;
use crate::cli::format::holder::describe_holder;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table;
use crate::cli::target::lookup;
use crate::cli::target::{self, Target};
use crate::cli::terminal::output::{OutputFormat, print};
use crate::client::{LOCKS_PATH, Row, lists};
use crate::lock::model::lease_name::spoken;
use crate::lock::text::escape::shown_path;

const OWNER: &str = "org.vmlockd1.Owner";
const LOCK: &str = "org.vmlockd1.Lock";

/// The first keys of the output; other keys follow in alphabetical order.
const ORDER: [&str; 15] = [
    "lock",
    "owner",
    "name",
    "why",
    "uuid",
    "resource",
    "name-state",
    "mode",
    "verified",
    "lost",
    "conflict",
    "uid",
    "pid",
    "state",
    "anchors",
];

/// Show all properties of an owner, of a lock, or of what holds a disk
#[derive(Debug, Args)]
#[command(after_help = target::GRAMMAR)]
pub(crate) struct Arguments {
    /// The owner, the lock, or the disk whose holders to show
    #[arg(value_name = "OWNER|LOCK|PATH")]
    target: OsString,
}

/// Prints the objects that the target names; in JSON always as an array.
pub(crate) async fn perform(
    service: &ServiceConnection,
    args: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let target = Target::parse(args.target)?;
    let shown = match &target {
        Target::Path(path) => holders(service, path).await?,
        Target::Lock(number) => vec![lock_by_number(service, *number).await?],
        Target::Owner(text) => vec![owner(service, text).await?],
    };
    print(&match format {
        OutputFormat::Json => json::document(&json::objects(&shown)),
        OutputFormat::Text => {
            let mut texts = Vec::new();
            for row in &shown {
                texts.push(match &target {
                    Target::Path(path) if row::text(row, "lock").is_empty() => {
                        format!("{}\n", describe_holder(&shown_path(path), row))
                    }
                    _ => text(row, &locks(service, row).await?),
                });
            }
            texts.join("\n")
        }
    })?;
    Ok(Exit::SUCCESS)
}

/// Returns the locks of an owner as rows of `ListLocks`; none for any other object.
async fn locks(service: &ServiceConnection, shown: &Row) -> Result<Vec<Row>, Error> {
    match row::path(shown, "owner") {
        Some(owner) if !shown.contains_key("lock") => {
            Ok(lists::locks(&service.manager().await?, lists::path_option("owner", owner)).await?)
        }
        _ => Ok(Vec::new()),
    }
}

/// Returns the holders of a disk: locks with all their properties, and other holders as the service
/// reports them.
async fn holders(service: &ServiceConnection, path: &Path) -> Result<Vec<Row>, Error> {
    let mut shown = Vec::new();
    for holder in lookup::holders(service, path).await? {
        match row::text(&holder, "lock") {
            "" => shown.push(holder),
            path => match lock(service, path).await {
                Ok(mut lock) => {
                    for key in ["why", "name-state", "conflict"] {
                        lock.extend(holder.get(key).map(|value| (key.to_owned(), value.clone())));
                    }
                    shown.push(lock);
                }
                // The lock was released meanwhile.
                Err(error) if error.is_no_such_object() => {}
                Err(error) => return Err(error),
            },
        }
    }
    if shown.is_empty() {
        return Err(Error::Missing(format!("{} is not locked", spoken(&shown_path(path)))));
    }
    Ok(shown)
}

/// Returns the properties of the lock with this number.
async fn lock_by_number(service: &ServiceConnection, number: u64) -> Result<Row, Error> {
    match lock(service, &format!("{LOCKS_PATH}/{number}")).await {
        Err(error) if error.is_no_such_object() => Err(target::no_lock(number)),
        found => found,
    }
}

/// Returns the properties of an owner.
async fn owner(service: &ServiceConnection, text: &str) -> Result<Row, Error> {
    let owners = lists::owners(&service.manager().await?).await?;
    let owner = lookup::owner(&owners, text, service.uid)?;
    properties(service, row::text(owner, "owner"), OWNER, "owner").await
}

/// Returns the properties of a lock, and `lost`, which only `ListLocks` has.
async fn lock(service: &ServiceConnection, path: &str) -> Result<Row, Error> {
    let mut properties = properties(service, path, LOCK, "lock").await?;
    let lost = if row::flag(&properties, "verified") {
        false
    } else {
        let owner = row::path(&properties, "owner");
        let filter = owner.map(|owner| lists::path_option("owner", owner)).unwrap_or_default();
        let locks = lists::locks(&service.manager().await?, filter).await?;
        locks.iter().any(|lock| row::text(lock, "lock") == path && row::flag(lock, "lost"))
    };
    properties.insert("lost".to_owned(), Variant::from(lost).try_into()?);
    Ok(properties)
}

/// Returns the properties of an object, and its path under the key `own`.
async fn properties(
    service: &ServiceConnection,
    path: &str,
    interface: &str,
    own: &str,
) -> Result<Row, Error> {
    let mut properties = service.properties(path, interface).await?;
    let path = zbus::ObjectPath::try_from(path.to_owned())?;
    properties.insert(own.to_owned(), Variant::from(path).try_into()?);
    Ok(properties)
}

/// Formats the properties of an object for people; for an owner, with its locks.
fn text(row: &Row, locks: &[Row]) -> String {
    let place = |key: &str| ORDER.iter().position(|known| *known == key).unwrap_or(ORDER.len());
    let mut keys: Vec<&String> = row.keys().collect();
    keys.sort_by_key(|key| (place(key), *key));
    let mut pairs = Vec::new();
    for key in keys {
        if key == "locks" && !locks.is_empty() {
            pairs.extend(locks.iter().map(|lock| (key.clone(), format_lock(lock))));
        } else if let Some(value) = row.get(key) {
            let name = key.strip_suffix("-usec").unwrap_or(key);
            pairs.push((name.to_owned(), format_value(key, value)));
        }
    }
    table::pairs(&pairs)
}

/// Formats a lock: its number, mode and disk.
fn format_lock(lock: &Row) -> String {
    let (mode, resource) = (row::text(lock, "mode"), row::text(lock, "resource"));
    format!("{} {mode} {resource}", row::lock_number(lock))
}

/// Formats a value for people: times in the local time zone, users with their names.
fn format_value(key: &str, value: &Variant<'_>) -> String {
    match (key, value) {
        ("since-usec" | "until-usec", Variant::U64(micros)) => clock::exact(*micros),
        ("uid", Variant::U32(uid)) => match row::user_name(*uid) {
            name if name == uid.to_string() => name,
            name => format!("{uid} ({name})"),
        },
        ("lost", Variant::Bool(true)) => "YES: another program may be using the disk".to_owned(),
        _ => json::plain(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::OwnedVariant;

    #[test]
    fn the_most_important_properties_are_printed_first() {
        let row: Row = [
            ("uid", Variant::from(0u32)),
            ("zebra", true.into()),
            ("name", "web1".into()),
            ("locks", Vec::<zbus::ObjectPath<'_>>::new().into()),
            ("since-usec", 0_u64.into()),
        ]
        .map(|(key, value)| (key.to_owned(), OwnedVariant::try_from(value).unwrap()))
        .into();
        let output = text(&row, &[]);
        assert!(output.starts_with("name:  web1\nuid:   0 (root)\nlocks:\nsince: "), "{output}");
        assert!(output.ends_with("\nzebra: yes\n"), "{output}");
        let lock = zbus::ObjectPath::try_from("/org/vmlockd1/lock/1").unwrap();
        let lock: Row = [
            ("lock", Variant::from(lock)),
            ("mode", "exclusive".into()),
            ("resource", "/srv/a.qcow2".into()),
        ]
        .map(|(key, value)| (key.to_owned(), OwnedVariant::try_from(value).unwrap()))
        .into();
        let output = text(&row, &[lock]);
        assert!(output.contains("\nlocks: 1 exclusive /srv/a.qcow2\n"), "{output}");
    }
}

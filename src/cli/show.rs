//! `show`: all there is to know of one owner, lock or disk.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;
use zbus::Variant;

use super::code::Code;
use super::error::Error;
use super::find::{self, Target};
use super::link::Link;
use super::output::{Form, print};
use super::{clock, json, row, table};
use crate::client::{LOCKS_PATH, Row, lists};
use crate::lock::lease::spoken;
use crate::lock::printable::shown_path;

const OWNER: &str = "org.vmlockd1.Owner";
const LOCK: &str = "org.vmlockd1.Lock";

/// In which order a person looks for them; what is not here comes after it.
const ORDER: [&str; 13] = [
    "Path",
    "Name",
    "UUID",
    "Resource",
    "NameState",
    "Mode",
    "Verified",
    "Lost",
    "UID",
    "PID",
    "State",
    "Anchors",
    "Owner",
];

const AFTER_HELP: &str = "\
An owner is named by its UUID, by the first digits of that (at least four), or
by the machine's name; a lock by its number; a disk by a path that begins with
/, ./ or ../, or a lease by lease:DIRECTORY/KEY, and shown is what holds it.";

/// Show all properties of an owner, a lock, or of what holds a disk
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// What to show
    #[arg(value_name = "OWNER|LOCK|PATH")]
    target: OsString,
}

/// Does it.
pub(super) async fn perform(link: &Link, args: Arguments, form: Form) -> Result<Code, Error> {
    let shown = match Target::path_or_text(args.target)? {
        Target::Path(path) => {
            let holders = holders(link, &path).await?;
            match form {
                Form::Json => json::document(&json::objects(&holders)),
                Form::Text => holders.iter().map(text).collect::<Vec<_>>().join("\n"),
            }
        }
        Target::Text(word) => {
            let found = owner_or_lock(link, &word).await?;
            match form {
                Form::Json => json::document(&json::object(&found)),
                Form::Text => text(&found),
            }
        }
    };
    print(&shown)?;
    Ok(Code::SUCCESS)
}

/// What holds a disk: locks with their properties, and others with what is known of them.
async fn holders(link: &Link, path: &Path) -> Result<Vec<Row>, Error> {
    let mut shown = Vec::new();
    for holder in find::holders(link, path).await? {
        match row::text(&holder, "lock") {
            "" => shown.push(holder),
            path => match lock(link, path).await {
                Ok(mut lock) => {
                    for (key, name) in [("name-state", "NameState"), ("conflict", "Conflict")] {
                        let value = holder.get(key).map(|value| (name.to_owned(), value.clone()));
                        lock.extend(value);
                    }
                    shown.push(lock);
                }
                // Released since we asked.
                Err(error) if error.is_no_such_object() => {}
                Err(error) => return Err(error),
            },
        }
    }
    if shown.is_empty() {
        return Err(Error::Missing(format!("nobody holds {}", spoken(&shown_path(path)))));
    }
    Ok(shown)
}

/// A number is a lock's, unless there is none; digits may also begin a UUID.
async fn owner_or_lock(link: &Link, word: &str) -> Result<Row, Error> {
    let number: Option<u64> = word.parse().ok();
    if let Some(number) = number {
        match lock(link, &format!("{LOCKS_PATH}/{number}")).await {
            Err(error) if error.is_no_such_object() => {}
            found => return found,
        }
    }
    let owners = lists::owners(&link.manager().await?).await?;
    match find::owner(&owners, word, link.uid) {
        Ok(owner) => properties(link, row::text(owner, "owner"), OWNER).await,
        Err(Error::Missing(_)) if number.is_some() => {
            Err(Error::Missing(format!("there is no lock {word}")))
        }
        Err(error) => Err(error),
    }
}

/// The properties of a lock, and whether it is lost: that alone is told only where all locks are.
async fn lock(link: &Link, path: &str) -> Result<Row, Error> {
    let mut properties = properties(link, path, LOCK).await?;
    let lost = if row::flag(&properties, "Verified") {
        false
    } else {
        let owner = row::path(&properties, "Owner");
        let filter = owner.map(|owner| lists::path_option("owner", owner)).unwrap_or_default();
        let locks = lists::locks(&link.manager().await?, filter).await?;
        locks.iter().any(|lock| row::text(lock, "lock") == path && row::flag(lock, "lost"))
    };
    properties.insert("Lost".to_owned(), Variant::from(lost).try_into()?);
    Ok(properties)
}

/// The properties of an object, and its path as one more.
async fn properties(link: &Link, path: &str, interface: &str) -> Result<Row, Error> {
    let mut properties = link.properties(path, interface).await?;
    let path = zbus::ObjectPath::try_from(path.to_owned())?;
    properties.insert("Path".to_owned(), Variant::from(path).try_into()?);
    Ok(properties)
}

fn text(row: &Row) -> String {
    let place = |key: &str| ORDER.iter().position(|known| *known == key).unwrap_or(ORDER.len());
    let mut keys: Vec<&String> = row.keys().collect();
    keys.sort_by_key(|key| (place(key), *key));
    let pair = |key: &String| row.get(key).map(|value| (key.clone(), readable(key, value)));
    table::pairs(&keys.into_iter().filter_map(pair).collect::<Vec<_>>())
}

/// A value as a person reads it: times by the clock, users by name.
fn readable(key: &str, value: &Variant<'_>) -> String {
    match (key, value) {
        ("SinceUSec" | "since-usec", Variant::U64(micros)) => clock::exact(*micros),
        ("UID" | "uid", Variant::U32(uid)) => match row::user_name(*uid) {
            name if name == uid.to_string() => name,
            name => format!("{uid} ({name})"),
        },
        ("Lost", Variant::Bool(true)) => "YES: others may be using the disk".to_owned(),
        _ => json::plain(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::OwnedVariant;

    #[test]
    fn properties_are_shown_in_an_order_that_helps() {
        let row: Row = [
            ("UID", Variant::from(0u32)),
            ("Zebra", true.into()),
            ("Name", "web1".into()),
            ("Locks", Vec::<zbus::ObjectPath<'_>>::new().into()),
        ]
        .map(|(key, value)| (key.to_owned(), OwnedVariant::try_from(value).unwrap()))
        .into();
        assert_eq!(text(&row), "Name:  web1\nUID:   0 (root)\nLocks:\nZebra: yes\n");
    }
}

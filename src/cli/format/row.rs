//! Access to the dictionaries in replies of the service.
//!
//! A missing key reads as empty, 0 or false: an older service then fills fewer columns of a table.

use nix::unistd::{Uid, User};
use zbus::Variant;

use crate::cli::format::clock;
use crate::client::Row;
use crate::paths;

/// Returns a string or an object path.
pub(crate) fn text<'r>(row: &'r Row, key: &str) -> &'r str {
    match row.get(key).map(|value| &**value) {
        Some(Variant::Str(text)) => text.as_str(),
        Some(Variant::ObjectPath(path)) => path.as_str(),
        _ => "",
    }
}

/// Returns an object path.
pub(crate) fn path<'r>(row: &'r Row, key: &str) -> Option<&'r zbus::ObjectPath<'static>> {
    match row.get(key).map(|value| &**value) {
        Some(Variant::ObjectPath(path)) => Some(path),
        _ => None,
    }
}

/// Returns a number.
pub(crate) fn number(row: &Row, key: &str) -> u64 {
    match row.get(key).map(|value| &**value) {
        Some(Variant::U32(n)) => (*n).into(),
        Some(Variant::U64(n)) => *n,
        _ => 0,
    }
}

/// Returns a boolean.
pub(crate) fn flag(row: &Row, key: &str) -> bool {
    matches!(row.get(key).map(|value| &**value), Some(Variant::Bool(true)))
}

/// Returns a word for the state of a lock that needs attention; empty for a lock that is held and
/// verified.
pub(crate) fn lock_state(row: &Row) -> &str {
    // A service without this key is an older one, which lists verified locks only.
    let verified = flag(row, "verified") || !row.contains_key("verified");
    match (flag(row, "lost"), flag(row, "conflict"), verified) {
        (true, ..) => "LOST",
        (false, true, _) => "CONFLICT",
        (false, false, false) => "unverified",
        (false, false, true) => text(row, "name-state"),
    }
}

/// Describes a name that no longer leads to the file that was locked by it; `None` if it still
/// does.
pub(crate) fn name_state_text(row: &Row) -> Option<&'static str> {
    match text(row, "name-state") {
        "" => None,
        "replaced" => Some("the file was replaced, and its name leads to another one"),
        _ => Some("the file was deleted or moved, and no other has its name"),
    }
}

/// Returns a list of strings.
pub(crate) fn strings<'r>(row: &'r Row, key: &str) -> Vec<&'r str> {
    let Some(Variant::Array(array)) = row.get(key).map(|value| &**value) else { return Vec::new() };
    let word = |value: &'r Variant<'_>| match value {
        Variant::Str(text) => Some(text.as_str()),
        _ => None,
    };
    array.inner().iter().filter_map(word).collect()
}

/// Returns a list of processes: their PIDs and programs.
pub(crate) fn processes<'r>(row: &'r Row, key: &str) -> Vec<(u32, &'r str)> {
    let Some(Variant::Array(array)) = row.get(key).map(|value| &**value) else { return Vec::new() };
    let process = |value: &'r Variant<'_>| match value {
        Variant::Structure(fields) => match fields.fields() {
            [Variant::U32(pid), Variant::Str(program)] => Some((*pid, program.as_str())),
            _ => None,
        },
        _ => None,
    };
    array.inner().iter().filter_map(process).collect()
}

/// Returns the number of a lock.
pub(crate) fn lock_number(row: &Row) -> String {
    let path = text(row, "lock");
    paths::lock_number(path).map_or_else(|| path.to_owned(), |number| number.to_string())
}

/// Formats a PID; a dash if there is no process.
pub(crate) fn pid(row: &Row) -> String {
    match number(row, "pid") {
        0 => "-".to_owned(),
        pid => pid.to_string(),
    }
}

/// Returns the first digits of the UUID, which distinguish owners in a table and are accepted as a
/// target. They contain a letter or a hyphen, as decimal digits alone would name a lock.
pub(crate) fn short_uuid(row: &Row) -> String {
    let uuid = text(row, "uuid");
    let is_number = uuid.chars().take(8).all(|c| c.is_ascii_digit());
    uuid.chars().take(if is_number { 13 } else { 8 }).collect()
}

/// Names the VM of a lock or an owner: `VM "web1" (4dea22b3-…)`.
pub(crate) fn vm(row: &Row) -> String {
    format!("VM \"{}\" ({})", text(row, "name"), text(row, "uuid"))
}

/// Lists owners by UUID and name, for a message about an ambiguous argument.
pub(crate) fn owner_names<'r>(owners: impl IntoIterator<Item = &'r Row>) -> String {
    let name = |owner: &Row| format!("{} ({})", text(owner, "uuid"), text(owner, "name"));
    owners.into_iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Formats a number of locks.
pub(crate) fn lock_count(count: u64) -> String {
    match count {
        1 => "1 lock".to_owned(),
        count => format!("{count} locks"),
    }
}

/// Formats the time at which a lock was granted, a request arrived or an owner was opened.
pub(crate) fn since(row: &Row) -> String {
    clock::minute(number(row, "since-usec"))
}

/// Returns the name of the user, or the uid if it has no name.
pub(crate) fn user(row: &Row) -> String {
    user_name(u32::try_from(number(row, "uid")).unwrap_or(u32::MAX))
}

/// Returns the name of a user, or the uid if it has no name.
pub(crate) fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => uid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{ObjectPath, OwnedVariant};

    fn row<const N: usize>(entries: [(&str, Variant<'_>); N]) -> Row {
        let owned = |(key, value): (&str, Variant<'_>)| {
            (key.to_owned(), OwnedVariant::try_from(value).unwrap())
        };
        entries.map(owned).into()
    }

    #[test]
    fn values_are_read_by_type() {
        let lock = ObjectPath::try_from("/org/vmlockd1/lock/12").unwrap();
        let row = row([
            ("lock", Variant::from(lock)),
            ("name", "web1".into()),
            ("pid", 0u32.into()),
            ("uid", 0u32.into()),
            ("uuid", "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".into()),
            ("anchors", vec!["lifeline", "process"].into()),
            ("lifeline-processes", vec![(7_u32, "sh")].into()),
        ]);
        assert_eq!(lock_number(&row), "12");
        assert_eq!((text(&row, "name"), pid(&row).as_str()), ("web1", "-"));
        assert_eq!((short_uuid(&row).as_str(), user(&row).as_str()), ("4dea22b3", "root"));
        let digits = self::row([("uuid", "12345678-1d52-d8f3-2516-782e98ab3fa0".into())]);
        assert_eq!(short_uuid(&digits), "12345678-1d52");
        assert_eq!(strings(&row, "anchors"), ["lifeline", "process"]);
        assert_eq!(processes(&row, "lifeline-processes"), [(7, "sh")]);
        assert!(processes(&row, "anchors").is_empty());
        assert!(flag(&self::row([("lost", true.into())]), "lost") && !flag(&row, "lost"));
        assert_eq!((text(&row, "pid"), number(&row, "name"), strings(&row, "x").len()), ("", 0, 0));
    }

    #[test]
    fn a_lock_that_needs_attention_has_a_state() {
        for (lost, verified, word) in
            [(false, true, ""), (false, false, "unverified"), (true, false, "LOST")]
        {
            let row = row([("lost", lost.into()), ("verified", verified.into())]);
            assert_eq!(lock_state(&row), word);
        }
        let both = row([("conflict", true.into()), ("verified", true.into())]);
        assert_eq!(lock_state(&both), "CONFLICT");
        assert_eq!(lock_state(&row([])), "");
    }
}

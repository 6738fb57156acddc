//! Reads values of the configuration.

use toml::de::DeValue;

use super::{Invalid, Table, Value, invalid, suggestion};

/// Reads a number of seconds, at most `max`.
pub(super) fn seconds(
    table: &Table<'_>,
    key: &str,
    max: u64,
    range: &str,
) -> Result<Option<u64>, Invalid> {
    let Some(value) = table.get(key) else { return Ok(None) };
    let seconds = match value.get_ref() {
        DeValue::Integer(number) => number.as_str().parse().ok().filter(|n: &u64| *n <= max),
        _ => None,
    };
    let error = || invalid(value, format!("'{key}' must be a number of seconds, {range}"));
    seconds.map(Some).ok_or_else(error)
}

/// Reads a boolean, also in libvirt's form `0` or `1`.
pub(super) fn boolean<'t>(
    table: &'t Table<'t>,
    key: &str,
) -> Result<Option<(&'t Value<'t>, bool)>, Invalid> {
    let Some(value) = table.get(key) else {
        return Ok(None);
    };
    let on = match value.get_ref() {
        DeValue::Boolean(on) => Some(*on),
        DeValue::Integer(number) if number.as_str() == "0" => Some(false),
        DeValue::Integer(number) if number.as_str() == "1" => Some(true),
        _ => None,
    };
    let error = || {
        let word = match value.get_ref() {
            DeValue::String(word) => suggestion::boolean(word),
            _ => None,
        };
        let hint = word.map(|on| format!("; write {key} = {on}")).unwrap_or_default();
        invalid(value, format!("'{key}' must be true or false{hint}"))
    };
    on.map(|on| Some((value, on))).ok_or_else(error)
}

/// Reads a string.
pub(super) fn string<'t>(
    table: &'t Table<'t>,
    key: &str,
) -> Result<Option<(&'t Value<'t>, &'t str)>, Invalid> {
    let Some(value) = table.get(key) else {
        return Ok(None);
    };
    match value.get_ref() {
        DeValue::String(text) => Ok(Some((value, text))),
        _ => Err(invalid(value, format!("'{key}' must be a string"))),
    }
}

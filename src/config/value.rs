//! The values of the configuration's keys.

use toml::de::DeValue;

use super::{Table, Value, Wrong, suggestion, wrong};

/// A number of seconds up to `most`.
pub(super) fn seconds(
    table: &Table<'_>,
    key: &str,
    most: u64,
    range: &str,
) -> Result<Option<u64>, Wrong> {
    let Some(value) = table.get(key) else { return Ok(None) };
    let seconds = match value.get_ref() {
        DeValue::Integer(number) => number.as_str().parse().ok().filter(|n: &u64| *n <= most),
        _ => None,
    };
    let wanted = || wrong(value, format!("'{key}' must be a number of seconds, {range}"));
    seconds.map(Some).ok_or_else(wanted)
}

/// A boolean, also as libvirt writes it.
pub(super) fn boolean<'t>(
    table: &'t Table<'t>,
    key: &str,
) -> Result<Option<(&'t Value<'t>, bool)>, Wrong> {
    let Some(value) = table.get(key) else {
        return Ok(None);
    };
    let on = match value.get_ref() {
        DeValue::Boolean(on) => Some(*on),
        DeValue::Integer(number) if number.as_str() == "0" => Some(false),
        DeValue::Integer(number) if number.as_str() == "1" => Some(true),
        _ => None,
    };
    let wanted = || {
        let word = match value.get_ref() {
            DeValue::String(word) => suggestion::boolean(word),
            _ => None,
        };
        let hint = word.map(|on| format!("; write {key} = {on}")).unwrap_or_default();
        wrong(value, format!("'{key}' must be true or false{hint}"))
    };
    on.map(|on| Some((value, on))).ok_or_else(wanted)
}

/// A string.
pub(super) fn string<'t>(
    table: &'t Table<'t>,
    key: &str,
) -> Result<Option<(&'t Value<'t>, &'t str)>, Wrong> {
    let Some(value) = table.get(key) else {
        return Ok(None);
    };
    match value.get_ref() {
        DeValue::String(text) => Ok(Some((value, text))),
        _ => Err(wrong(value, format!("'{key}' must be a string"))),
    }
}

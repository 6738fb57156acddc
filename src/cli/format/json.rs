//! Converts D-Bus values to JSON, with the same keys, names and numbers.

use serde_json::{Map, Value};
use zbus::Variant;

use crate::client::Row;

/// The largest integer that every JSON parser represents exactly: many parse numbers as doubles.
const EXACT: u64 = (1 << 53) - 1;

/// Converts a dictionary to an object.
pub(crate) fn object(row: &Row) -> Value {
    Value::Object(row.iter().map(|(key, value)| (key.clone(), to_value(value))).collect())
}

/// Converts dictionaries to an array of objects.
pub(crate) fn objects(rows: &[Row]) -> Value {
    rows.iter().map(object).collect()
}

/// Formats a document for standard output.
pub(crate) fn document(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Converts any value. A number above [`EXACT`], which means "no limit" on D-Bus, becomes `null`,
/// and so does a descriptor; the service sends none in dictionaries.
pub(crate) fn to_value(value: &Variant<'_>) -> Value {
    match value {
        Variant::U8(n) => (*n).into(),
        Variant::Bool(b) => (*b).into(),
        Variant::I16(n) => (*n).into(),
        Variant::U16(n) => (*n).into(),
        Variant::I32(n) => (*n).into(),
        Variant::U32(n) => (*n).into(),
        Variant::I64(n) => {
            if n.unsigned_abs() > EXACT {
                Value::Null
            } else {
                (*n).into()
            }
        }
        Variant::U64(n) => {
            if *n > EXACT {
                Value::Null
            } else {
                (*n).into()
            }
        }
        Variant::F64(n) => (*n).into(),
        Variant::Str(text) => text.as_str().into(),
        Variant::Signature(signature) => signature.to_string().into(),
        Variant::ObjectPath(path) => path.as_str().into(),
        Variant::Variant(value) => to_value(value),
        Variant::Array(array) => array.inner().iter().map(to_value).collect(),
        Variant::Dict(dict) => {
            let entry = |(key, value)| (plain(key), to_value(value));
            Value::Object(dict.iter().map(entry).collect::<Map<_, _>>())
        }
        Variant::Structure(fields) => fields.fields().iter().map(to_value).collect(),
        Variant::Fd(_) => Value::Null,
    }
}

/// Formats any value as text.
pub(crate) fn plain(value: &Variant<'_>) -> String {
    let list = |values: &[Variant<'_>], between: &str| {
        values.iter().map(plain).collect::<Vec<_>>().join(between)
    };
    match value {
        Variant::Bool(true) => "yes".to_owned(),
        Variant::Bool(false) => "no".to_owned(),
        Variant::Array(array) => list(array.inner(), ", "),
        Variant::Structure(fields) => list(fields.fields(), " "),
        Variant::Variant(value) => plain(value),
        value => match to_value(value) {
            Value::Null => "no limit".to_owned(),
            Value::String(text) => text,
            value => value.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::ObjectPath;

    #[test]
    fn values_keep_their_types() {
        let path = ObjectPath::try_from("/org/vmlockd1/lock/3").unwrap();
        for (value, json, text) in [
            (Variant::from(u64::MAX), "null", "no limit"),
            (Variant::from(EXACT), "9007199254740991", "9007199254740991"),
            (Variant::from(7u32), "7", "7"),
            (Variant::from(true), "true", "yes"),
            (Variant::from("a\n\"b\""), r#""a\n\"b\"""#, "a\n\"b\""),
            (Variant::from(path), "\"/org/vmlockd1/lock/3\"", "/org/vmlockd1/lock/3"),
            (Variant::from(vec!["a", "b"]), r#"["a","b"]"#, "a, b"),
            (Variant::from(vec![("a", "shared")]), r#"[["a","shared"]]"#, "a shared"),
        ] {
            assert_eq!((to_value(&value).to_string(), plain(&value)), (json.into(), text.into()));
        }
    }

    #[test]
    fn an_empty_list_is_an_empty_array() {
        assert_eq!(document(&objects(&[])), "[]\n");
    }
}

use proptest::prelude::*;

use uuid::Uuid;

use super::*;
use crate::lock::Mode;
use crate::lock::model::holder_entry::{PATH_MAX, path_to_record};
use crate::lock::text::why::WHY_MAX;

const HOST: &str = "node-1";

fn entry(lock: u64, name: &str, path: &str) -> Entry {
    Entry {
        lock,
        name: name.to_owned(),
        uuid: Uuid::from_u128(u128::from(lock)),
        pid: 4711,
        user: "bob".to_owned(),
        mode: Mode::Shared,
        since: 1_000_000 + lock,
        path: path_to_record(path),
        why: String::new(),
    }
}

fn value(holders: Vec<Entry>) -> Value {
    Value { host: "Node One".to_owned(), holders }
}

/// Returns an attribute with a correct checksum and any content.
fn with_checksum(text: &str) -> Vec<u8> {
    format!("1 {} {text}", checksum(HOST, text)).into_bytes()
}

#[test]
fn a_value_round_trips() {
    let original = value(vec![entry(1, "web1", "/srv/a"), entry(2, "web \"2\"", "/srv/b\n")]);
    let bytes = original.write(HOST);
    assert_eq!(Value::read(HOST, &bytes), Some(original));
    // A value of another host that was copied.
    assert_eq!(Value::read("node-2", &bytes), None);
    for n in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[n] ^= 1;
        assert_eq!(Value::read(HOST, &damaged), None, "byte {n}");
        assert_eq!(Value::read(HOST, &bytes[..n]), None);
    }
}

#[test]
fn the_length_of_a_value_is_bounded() {
    let many = (0..100).map(|n| entry(n, "web1", "/srv/a")).collect();
    let read = Value::read(HOST, &value(many).write(HOST)).unwrap();
    // The newest holder.
    assert_eq!(read.holders.last().unwrap().lock, 99);
    assert!((2..=HOLDERS_MAX).contains(&read.holders.len()));
    let long = entry(1, &"\"".repeat(128), &"\"".repeat(4000));
    let bytes = value(vec![long]).write(HOST);
    assert!(bytes.len() <= VALUE_MAX);
    assert!(Value::read(HOST, &bytes).unwrap().holders[0].path.starts_with('…'));
    let mut long = entry(1, &"\"".repeat(128), &"\"".repeat(4000));
    long.user = "\"".repeat(64);
    let bytes = Value { host: "\"".repeat(64), holders: vec![long] }.write(HOST);
    assert!(bytes.len() <= VALUE_MAX && Value::read(HOST, &bytes).is_some());
    // Reasons are left out before any holder is, that of the first holder first.
    let with_why = |n: u64| Entry { why: "\"".repeat(WHY_MAX), ..entry(n, "web1", "/srv/a") };
    let read = Value::read(HOST, &value(vec![with_why(1)]).write(HOST)).unwrap();
    assert_eq!(read.holders[0].why.len(), WHY_MAX);
    let read = Value::read(HOST, &value(vec![with_why(1), with_why(2)]).write(HOST)).unwrap();
    let why: Vec<usize> = read.holders.iter().map(|holder| holder.why.len()).collect();
    assert_eq!(why, [0, WHY_MAX]);
    let read = Value::read(HOST, &value((1..4).map(with_why).collect()).write(HOST)).unwrap();
    assert_eq!((read.holders.len(), read.holders[0].why.len()), (3, 0));
    let path = path_to_record(&format!("/srv/{}/disk.img", "é".repeat(300)));
    assert!(path.starts_with('…') && path.ends_with("é/disk.img") && path.len() < PATH_MAX + 4);
}

#[test]
fn deceptive_text_is_rejected() {
    let original = Entry { why: "backup".to_owned(), ..entry(1, "web1", "/srv/a") };
    let valid = serde_json::to_string(&value(vec![original])).unwrap();
    assert!(Value::read(HOST, &with_checksum(&valid)).is_some());
    for (from, to) in [
        ("web1", "web\\u001b[2J"),
        ("web1", "web1\\u202e"),
        ("web1", ""),
        ("bob", "b\\nob"),
        ("/srv/a", "/srv\\u0007"),
        ("backup", "back\\u001bup"),
        ("Node One", "a\\nb"),
        ("Node One", ""),
        ("shared", "both"),
        ("\"pid\":4711", "\"pid\":-1"),
        ("\"pid\":4711", "\"pid\":4294967296"),
        ("00000000-0000", "zzzzzzzz-0000"),
        ("holders", "owners"),
    ] {
        let text = valid.replacen(from, to, 1);
        assert_ne!(text, valid, "{from}");
        assert_eq!(Value::read(HOST, &with_checksum(&text)), None, "{to}");
    }
    let later = with_checksum(&valid);
    assert_eq!(Value::read(HOST, &[b"2 ", &later[2..]].concat()), None);
    assert_eq!(Value::read(HOST, &with_checksum(&"[".repeat(900))), None);
    assert_eq!(Value::read("NODE 1", &later), None);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        let _ = Value::read(HOST, &bytes);
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = Value::read(HOST, &with_checksum(&text));
        }
    }

    #[test]
    fn any_printable_name_round_trips(
        names in prop::collection::vec("[ -~äテ]{1,40}", 1..4),
        path in "/[ -~]{0,60}",
        since in any::<u64>(),
    ) {
        let holders: Vec<Entry> = names
            .iter()
            .enumerate()
            .map(|(n, name)| Entry { since, ..entry(n as u64, name, &path) })
            .collect();
        let read = Value::read(HOST, &value(holders.clone()).write(HOST)).unwrap();
        prop_assert!(holders.ends_with(&read.holders));
    }
}

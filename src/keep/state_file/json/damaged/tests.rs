//! Tests of recovering names from damaged entries.

use super::super::super::suspect::SuspectName;
use super::super::format::decode;
use super::*;
use crate::lock::lockspace::key::digest_of;

const RECORD: &str = r#"{"lock":{"number":7,"uid":0,"uuid":"4dea22b3-1d52-d8f3-2516-782e98ab3fa0","since":5,"resource":"a \",\"path\":\"/etc/passwd\"","canonical":null,"path":"/srv/a b.img","identity":{"inode":{"dev":1,"ino":2}},"lockspace":"direct","lock_files":["/srv/a b.img"],"fleeting":false,"write_shown":true}}"#;

const LEASE: &str = r#"{"lock":{"number":8,"uid":0,"uuid":"4dea22b3-1d52-d8f3-2516-782e98ab3fa0","since":5,"resource":"lease:/srv/leases/50%25","canonical":null,"path":null,"identity":{"key":{"dev":1,"ino":2,"key":KEY}},"lockspace":"lease_1","lock_files":["/srv/leases/50%"],"fleeting":false,"write_shown":false}}"#;

const DISK: &str = r#"{"lock":{"number":9,"resource":"/srv/a","canonical":"/srv/a","path":"/srv/a","identity":{"inode":{"dev":1,"ino":2}},"occupies":[{"of":{"block":{"dev":3,"seq":0}},"start":0,"exact":false}],"lockspace":"direct","lock_files":["/srv/a"],"fleeting":false}}"#;

fn line(head: &str, record: &str) -> Vec<u8> {
    format!("{head} 0123456789abcdef {record}").into_bytes()
}

fn read(line: &[u8]) -> Suspect {
    let all = read_suspects(line);
    let [one] = &all[..] else { panic!("{all:?} in {}", String::from_utf8_lossy(line)) };
    one.clone()
}

fn lease() -> String {
    LEASE.replace("KEY", &digest_of("50%").to_string())
}

fn disk(path: &str) -> SuspectName {
    SuspectName::Disk(path.into())
}

#[test]
fn the_path_is_read_although_the_checksum_is_wrong() {
    let damaged = line("hs", RECORD);
    assert_eq!(decode(&damaged), None);
    let suspect = Suspect {
        number: Some(7),
        name: disk("/srv/a b.img"),
        identity: Some(Identity::Inode { dev: 1, ino: 2 }),
        below: Vec::new(),
        copies: Vec::new(),
        canonical: None,
        lockspace: Some(LockspaceKind::Direct),
        lock_files: vec!["/srv/a b.img".into()],
        mode: Mode::Shared,
    };
    assert_eq!(read(&damaged), suspect);
    assert_eq!(read(&line("aS", RECORD)).mode, Mode::Exclusive);
    assert_eq!(read(&line("?x", RECORD)).mode, Mode::Exclusive);
    let broken = RECORD.replace("\"dev\":1", "\"dev\":x").replace(":7,", ":?,");
    let broken = read(&line("hx", &broken));
    assert_eq!((broken.number, broken.identity), (None, None));
    let below = Extent::partial(Identity::Block { dev: 3, seq: 0 });
    assert_eq!(read(&line("hx", DISK)).below, [below]);
}

#[test]
fn the_path_is_read_from_a_truncated_record_wherever_it_is_cut() {
    let damaged = line("hx", RECORD);
    let end = find(&damaged, b",\"identity\"").unwrap();
    for length in end..damaged.len() {
        assert_eq!(read(&damaged[..length]).name, disk("/srv/a b.img"), "{length}");
    }
    // The part before the lock files.
    let begin = find(&damaged, b"\"lockspace\"").unwrap();
    for start in 1..=begin {
        assert_eq!(read(&damaged[start..]).name, disk("/srv/a b.img"), "{start}");
    }
    // The lock file alone, of an unknown lockspace.
    assert_eq!(read(&damaged[begin + 20..]).name, disk("/srv/a b.img"));
}

#[test]
fn a_damaged_field_is_outvoted() {
    for key in ["resource", "canonical", "path"] {
        for value in ["\"/srv/b\"", "\"/srv/\\q\"", "\"\"", "7", "\"/srv/../a\"", "null", "[300]"] {
            let (from, to) = (format!("\"{key}\":\"/srv/a\""), format!("\"{key}\":{value}"));
            assert!(DISK.contains(&from));
            let damaged = line("hx", &DISK.replace(&from, &to));
            assert_eq!(read(&damaged).name, disk("/srv/a"), "{to}");
        }
    }
    for value in ["[\"/srv/b\"]", "[]", "{}", "[\"b\"]"] {
        let damaged = line("hx", &DISK.replace("[\"/srv/a\"]", value));
        assert_eq!(read(&damaged).name, disk("/srv/a"), "{value}");
    }
}

#[test]
fn a_lease_is_named_by_its_file_or_by_its_resource() {
    let file = || SuspectName::LockFile("/srv/leases/50%".into());
    let suspect = read(&line("hx", &lease()));
    assert_eq!((suspect.name, suspect.lockspace), (file(), Some(LockspaceKind::Lease(1))));
    for (from, to) in [
        ("/leases/50%\"]", "/leases/51%\"]"),
        ("/leases/50%\"]", "/leases/..\"]"),
        ("[\"/srv/leases/50%\"]", "[\"/srv/leases/50%\\q\"]"),
        ("50%25", "51%25"),
        ("50%25", "50%26"),
        ("\"resource\"", "\"rezource\""),
        ("lease:", "leaze:"),
        ("\"key\":{", "\"kez\":{"),
    ] {
        let damaged = lease().replace(from, to);
        assert_ne!(damaged, lease(), "{from}");
        assert_eq!(read(&line("hx", &damaged)).name, file(), "{to}");
    }
    let none = lease().replace("/srv/leases", "srv/leases");
    assert_eq!(read_suspects(&line("hx", &none)), []);
}

#[test]
fn lock_files_of_a_disk_are_named_where_the_disk_is_not() {
    let record = DISK.replace("\"/srv/a\",", "null,").replace("direct", "file");
    let record = record.replace("[\"/srv/a\"]", "[\"/locks/1\",\"/locks/2\"]");
    let names: Vec<_> =
        read_suspects(&line("hx", &record)).into_iter().map(|suspect| suspect.name).collect();
    assert_eq!(names, ["/locks/1", "/locks/2"].map(|file| SuspectName::LockFile(file.into())));
}

#[test]
fn an_entry_that_was_not_held_or_has_no_name_is_no_suspect() {
    for head in ["-x", "gx", "rx", "sx", "vx", "hn"] {
        assert_eq!(read_suspects(&line(head, RECORD)), [], "{head}");
        assert_eq!(read_suspects(&line(head, &lease())), [], "{head}");
    }
    let without = RECORD.replace("\"lock_files\":[\"/srv/a b.img\"]", "\"lock_files\":[]");
    for other in ["null", "\"srv/a\"", "\"/srv/../a\"", "\"/srv/a\\q\""] {
        let record = without.replace("\"/srv/a b.img\"", other);
        assert_eq!(read_suspects(&line("hx", &record)), [], "{other}");
    }
    assert_eq!(read_suspects(b""), []);
    let long = RECORD.replace("a b", &"a".repeat(PIECE_MAX));
    assert_eq!(read_suspects(&line("hx", &long)), []);
    let lockspace = r#"{"lockspace":{"number":1,"path":"/srv/leases"}}"#;
    assert_eq!(read_suspects(&line("h.", lockspace)), []);
}

#[test]
fn records_that_damage_has_joined_are_read_one_by_one() {
    // A line feed is another byte; zeros, perhaps many, from the middle of one entry to the middle
    // of another.
    let (one, other) = (line("hs", RECORD), line("hx", DISK));
    let lease = line("hx", &lease());
    let last = &other[find(&other, b"\"lockspace\"").unwrap()..];
    let zeros = vec![0; 2 * PIECE_MAX];
    for between in [&b"\x0b"[..], &zeros[..1], &zeros] {
        let joined = [&one[..], between, &lease, between, last].concat();
        let all = read_suspects(&joined);
        let found: Vec<_> = all.iter().map(|suspect| (&suspect.name, suspect.mode)).collect();
        let file = SuspectName::LockFile("/srv/leases/50%".into());
        // A rest that follows without a separator belongs to no record.
        let mut expected = vec![(disk("/srv/a b.img"), Mode::Shared), (file, Mode::Exclusive)];
        expected.extend((between[0] == 0).then(|| (disk("/srv/a"), Mode::Exclusive)));
        let expected: Vec<_> = expected.iter().map(|(name, mode)| (name, *mode)).collect();
        assert_eq!(found, expected);
    }
}

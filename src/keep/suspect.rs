//! What can still be read of a lock record that is damaged.
//!
//! A record whose checksum is wrong tells nothing that is certain. But the disk of a VM that lives must
//! not be free because a byte of its record changed, so the name of the disk is read where it can be;
//! what else the record says of it is a hint.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use super::line::{Step, mode_byte};
use super::spelling::{Identified, Spelling};
use crate::lock::Mode;
use crate::lock::identity::Identity;
use crate::lock::resource::DiskPath;

/// The longest damaged line that is looked at, in bytes: a path has 4096 at most, and stands in a record
/// three or four times.
const LINE_MAX: usize = 128 * 1024;
/// The most disks that the damaged records of one file can name.
pub(super) const SUSPECTS_MAX: usize = 16_384;

/// A disk that a damaged lock record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// The number of the lock, where it can be read.
    pub number: Option<u64>,
    /// The path to the disk: absolute, without `..`.
    pub path: PathBuf,
    /// What the path led to, where it can be read.
    pub identity: Option<Identity>,
    /// The mode; exclusive, where it can't be read.
    pub mode: Mode,
}

impl Suspect {
    /// Reads a damaged line, without its end. `None` where it is no record of a lock that was held,
    /// or its path can't be read.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        if line.len() > LINE_MAX || !contains(line, b"\"lock_files\":") {
            return None;
        }
        let was_held = |step| matches!(step, Some(Step::Held | Step::Reacquired) | None);
        if !was_held(Step::of(*line.first()?)) {
            return None;
        }
        let byte = *line.get(1)?;
        if byte == mode_byte(Some(Mode::None)) {
            return None;
        }
        let is_shared = byte == mode_byte(Some(Mode::Shared));
        let mode = if is_shared { Mode::Shared } else { Mode::Exclusive };
        let path: PathBuf = field::<Spelling>(line, "path")?.into();
        let parsed = DiskPath::from_bytes(path.as_os_str().as_bytes()).ok()?;
        if parsed.climbs() {
            return None;
        }
        let identity = field::<Identified>(line, "identity").map(Identity::from);
        Some(Self { number: field(line, "number"), path, identity, mode })
    }
}

/// Reads the value of a key of the record. Quotation marks in a string are escaped, so no string can
/// hold what is looked for.
fn field<T: DeserializeOwned>(line: &[u8], key: &str) -> Option<T> {
    let found = [b'{', b','].into_iter().find_map(|before| {
        let key = format!("{}\"{key}\":", char::from(before));
        let at = line.windows(key.len()).position(|part| part == key.as_bytes())?;
        line.get(at + key.len()..)
    });
    serde_json::Deserializer::from_slice(found?).into_iter().next()?.ok()
}

fn contains(line: &[u8], word: &[u8]) -> bool {
    line.windows(word.len()).any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep::line::Line;

    const RECORD: &str = r#"{"lock":{"number":7,"uid":0,"uuid":"4dea22b3-1d52-d8f3-2516-782e98ab3fa0","since":5,"resource":"a \",\"path\":\"/etc/passwd\"","canonical":null,"path":"/srv/a b.img","identity":{"inode":{"dev":1,"ino":2}},"lockspace":"direct","lock_files":["/srv/a b.img"],"fleeting":false,"write_shown":true}}"#;

    fn line(head: &str, record: &str) -> Vec<u8> {
        format!("{head} 0123456789abcdef {record}").into_bytes()
    }

    #[test]
    fn the_path_is_read_where_the_checksum_is_wrong() {
        let damaged = line("hs", RECORD);
        assert_eq!(Line::read(&damaged), None);
        let suspect = Suspect {
            number: Some(7),
            path: "/srv/a b.img".into(),
            identity: Some(Identity::Inode { dev: 1, ino: 2 }),
            mode: Mode::Shared,
        };
        assert_eq!(Suspect::read(&damaged), Some(suspect.clone()));
        assert_eq!(Suspect::read(&line("aS", RECORD)).unwrap().mode, Mode::Exclusive);
        assert_eq!(Suspect::read(&line("?x", RECORD)).unwrap().mode, Mode::Exclusive);
        // Cut off behind the path, and elsewhere broken.
        let cut = &damaged[..damaged.len() - 30];
        assert_eq!(Suspect::read(cut), Some(suspect));
        let broken = RECORD.replace("\"dev\":1", "\"dev\":x").replace(":7,", ":?,");
        let broken = Suspect::read(&line("hx", &broken)).unwrap();
        assert_eq!((broken.number, broken.identity), (None, None));
    }

    #[test]
    fn what_was_not_held_or_has_no_path_is_no_suspect() {
        for head in ["-x", "gx", "rx", "sx", "vx", "hn"] {
            assert_eq!(Suspect::read(&line(head, RECORD)), None, "{head}");
        }
        for (part, other) in [
            ("\"path\":\"/srv/a b.img\"", "\"path\":null"),
            ("\"path\":\"/srv/a b.img\"", "\"path\":\"srv/a\""),
            ("\"path\":\"/srv/a b.img\"", "\"path\":\"/srv/../a\""),
            ("\"path\":\"/srv/a b.img\"", "\"path\":\"/srv/a\\q\""),
            ("\"path\":\"/srv/a b.img\"", "\"bath\":\"/srv/a b.img\""),
            ("\"lock_files\"", "\"lock_filez\""),
        ] {
            assert_eq!(Suspect::read(&line("hx", &RECORD.replace(part, other))), None, "{other}");
        }
        assert_eq!(Suspect::read(b""), None);
        let long = RECORD.replace("a b", &"a".repeat(LINE_MAX));
        assert_eq!(Suspect::read(&line("hx", &long)), None);
    }
}

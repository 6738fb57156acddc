//! This host, as holder records name it to other hosts.

use std::fs;
use std::path::Path;

use rustix::system::uname;
use sha2::{Digest, Sha256};

use crate::lock::text::escape::is_printable;

/// The application id that is hashed with the machine id: machine-id(5) requires that the machine
/// id itself is not exposed.
const APPLICATION: &[u8] = b"org.vmlockd1 holder record 1";
/// The maximum length of a configured id.
pub const ID_MAX: usize = 64;
/// The maximum length of a host name, in bytes.
pub const NAME_MAX: usize = 64;

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its unique id.
    id: String,
    /// Its configured name, if that is not the name of the system.
    name: Option<String>,
}

/// Why an id or a name is invalid.
pub type InvalidSetting = &'static str;

impl Host {
    /// Returns a host with the configured id, or with one derived from the machine id. `None` if
    /// there is neither: then the host has no unique id.
    ///
    /// # Errors
    ///
    /// Why the id or the name is invalid.
    pub fn new(id: Option<&str>, name: Option<&str>) -> Result<Option<Self>, InvalidSetting> {
        if let Some(name) = name
            && !is_name(name)
        {
            return Err("must be 1 to 64 bytes long, without control characters");
        }
        let id = match id {
            Some(id) if is_id(id) => Some(id.to_owned()),
            Some(_) => return Err("must be 1 to 64 of the characters a to z, 0 to 9 and '-'"),
            None => own_id(Path::new("/etc/machine-id")),
        };
        Ok(id.map(|id| Self { id, name: name.map(str::to_owned) }))
    }

    /// Returns its unique id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns its name for display: the configured one, or the present name of the system.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(system_name)
    }
}

/// Returns the present name of the system.
#[must_use]
pub fn system_name() -> String {
    let system = uname();
    let name = system.nodename().to_string_lossy();
    let name: String = name.chars().filter(|c| is_printable(*c)).take(NAME_MAX).collect();
    if is_name(&name) { name } else { "localhost".to_owned() }
}

/// Whether a text is valid as a host id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let is_valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=ID_MAX).contains(&text.len()) && text.bytes().all(is_valid)
}

/// Whether a text is valid as a host name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && text.chars().all(is_printable)
}

/// Returns an id that is derived from the machine id.
fn own_id(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let machine = text.trim();
    // It is "uninitialized" at the first boot.
    if machine.len() != 32 || !machine.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let digest = Sha256::new().chain_update(machine.to_ascii_lowercase()).chain_update(APPLICATION);
    Some(hex(&digest.finalize()[..16]))
}

/// Formats bytes as lower-case hex.
pub(in crate::lock) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_id_is_not_exposed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let id = |text: &str| {
            fs::write(file.path(), text).unwrap();
            own_id(file.path())
        };
        let machine = "0123456789abcdef0123456789abcdef";
        let one = id(&format!("{machine}\n")).unwrap();
        assert!(is_id(&one) && one.len() == 32 && one != machine);
        assert_eq!(id(machine), Some(one.clone()));
        assert_ne!(id("1123456789abcdef0123456789abcdef"), Some(one));
        for nothing in ["", "uninitialized\n", "0123"] {
            assert_eq!(id(nothing), None);
        }
        assert_eq!(own_id(Path::new("/none/such")), None);
    }

    #[test]
    fn configured_values_take_precedence() {
        let host = Host::new(Some("node-1"), Some("Node One")).unwrap().unwrap();
        assert_eq!((host.id(), host.name().as_str()), ("node-1", "Node One"));
        let host = Host::new(Some("a"), None).unwrap().unwrap();
        assert_eq!(host.name(), system_name());
        for wrong in ["", "A", "a b", "a.b", "ä", &"x".repeat(65)] {
            assert!(Host::new(Some(wrong), None).is_err(), "{wrong}");
        }
        for wrong in ["", "a\nb", &"x".repeat(65)] {
            assert!(Host::new(Some("a"), Some(wrong)).is_err(), "{wrong:?}");
        }
    }
}

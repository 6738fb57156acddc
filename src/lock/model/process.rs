//! A process of this host, as the inspector describes it.
//!
//! A process can change its program name and its command line. So the VM that an emulator claims to
//! run is displayed, and decides nothing.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::mode::Mode;
use super::owner::shown_name;

/// A process on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number in the pid namespace of the service.
    pub pid: u32,
    /// Its program, as in `/proc/PID/comm`, escaped.
    pub program: String,
    /// Its real user.
    pub uid: u32,
    /// The VM that it claims to run, if its program is an emulator.
    pub machine: Option<Machine>,
    /// The mode in which it has the disk open, if its own locks show that: exclusive if it writes.
    pub mode: Option<Mode>,
}

/// A VM, as named on the command line of its emulator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The printable part of its name; empty if it has none.
    pub name: String,
    /// Its UUID.
    pub uuid: Option<Uuid>,
}

impl Process {
    /// Whether a process with this number exists. Checks it with a null signal (`kill(2)`), since
    /// `/proc` may hide the processes of other users.
    #[must_use]
    pub fn exists(pid: u32) -> bool {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
        !matches!(test_kill_process(pid), Err(Errno::SRCH))
    }

    /// Whether it is a service like this one, whose locks belong to VMs.
    pub(in crate::lock) fn is_service(&self) -> bool {
        self.program == "vmlockd"
    }
}

/// Whether a program is QEMU, by its name or the name of its file.
#[must_use]
pub fn is_emulator(name: &[u8]) -> bool {
    name.starts_with(b"qemu-") || name == b"kvm"
}

/// Parses the VM on a command line of QEMU: `-name guest=X,…`, `-name X,…`, `-uuid U`; the last of
/// each counts, as for QEMU. `None` if neither is given.
#[must_use]
pub fn parse_command_line(line: &[u8]) -> Option<Machine> {
    let mut words = line.split(|byte| *byte == 0);
    let (mut name, mut uuid) = (None, None);
    while let Some(word) = words.next() {
        let option = word.strip_prefix(b"--").or_else(|| word.strip_prefix(b"-"));
        match option {
            Some(b"name") => name = words.next().and_then(guest_name).or(name),
            Some(b"uuid") => {
                let text = words.next().and_then(|word| str::from_utf8(word).ok());
                uuid = text.and_then(|text| Uuid::try_parse(text).ok()).or(uuid);
            }
            _ => {}
        }
    }
    if name.is_none() && uuid.is_none() {
        return None;
    }
    // The UUID is no name for a VM without one.
    let name = name.map(|name| shown_name(&name, Uuid::nil())).unwrap_or_default();
    Some(Machine { name, uuid })
}

/// Returns the guest's name in the value of `-name`: its first part, or that with the key `guest`.
/// A comma in it is doubled.
fn guest_name(value: &[u8]) -> Option<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    let named = parts.iter().find_map(|part| part.strip_prefix(b"guest="));
    let first = || parts.first().map(Vec::as_slice).filter(|part| !part.contains(&b'='));
    let name = named.or_else(first).filter(|name| !name.is_empty())?;
    Some(name.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_process_exists_until_it_is_reaped() {
        assert!(Process::exists(std::process::id()));
        assert!(!Process::exists(u32::MAX) && !Process::exists(0));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(Process::exists(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!Process::exists(child.id()));
    }

    fn name(line: &[u8]) -> Option<String> {
        parse_command_line(line).map(|machine| machine.name)
    }

    #[test]
    fn a_vm_is_named_by_the_command_line() {
        for (line, expected) in [
            (&b"qemu\0-name\0guest=web1,debug-threads=on\0-S\0"[..], Some("web1")),
            (b"qemu\0-name\0web1\0", Some("web1")),
            (b"qemu\0--name\0web1,process=x", Some("web1")),
            (b"qemu\0-name\0debug-threads=on,guest=a,,b\0", Some("a,b")),
            (b"qemu\0-name\0a\0-name\0b\0", Some("b")),
            (b"qemu\0-name\0a\x1b[2J\nb\0", Some("a\u{fffd}[2J\u{fffd}b")),
            (b"qemu\0-name\0\0", None),
            (b"qemu\0-name\0guest=\0", None),
            (b"qemu\0-name\0process=x\0", None),
            (b"qemu\0-name", None),
            (b"qemu\0-names\0a\0", None),
            (b"", None),
        ] {
            assert_eq!(name(line).as_deref(), expected, "{}", line.escape_ascii());
        }
        let machine = parse_command_line(
            b"kvm\0-uuid\x004dea22b3-1d52-d8f3-2516-782e98ab3fa0\0-uuid\0no uuid\0",
        );
        let machine = machine.unwrap();
        assert_eq!(machine.name, "");
        assert_eq!(machine.uuid.unwrap().to_string(), "4dea22b3-1d52-d8f3-2516-782e98ab3fa0");
    }

    proptest! {
        #[test]
        fn any_command_line_is_parsed_without_panic(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let line = [b"q\0-name\0".as_slice(), &line].concat();
            if let Some(machine) = parse_command_line(&line) {
                prop_assert!(machine.name.len() <= super::super::owner::NAME_MAX);
                prop_assert!(machine.name.chars().all(crate::lock::text::escape::is_printable));
            }
        }
    }
}

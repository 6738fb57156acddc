//! A process of this host, as far as `/proc` tells.
//!
//! What a process says of itself, its program's name and its command line, it may change as it
//! likes. So the machine that an emulator says it runs is shown, and decides nothing.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;

use uuid::Uuid;

use super::mode::Mode;
use super::owner::shown_name;
use super::printable::shown;

/// How much of a command line is read; the machine's name stands near its beginning.
const COMMAND_LINE: u64 = 32 * 1024;
/// The longest name of a program that is shown. The kernel keeps 15 bytes.
const PROGRAM: usize = 64;

/// A process on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number in our pid namespace.
    pub pid: u32,
    /// Its program, as in `/proc/PID/comm`, escaped.
    pub program: String,
    /// Its real user.
    pub uid: u32,
    /// The machine that it says it runs, where its program is an emulator.
    pub machine: Option<Machine>,
    /// How it has the disk open, where that was seen by its own locks on it: exclusive if it
    /// writes.
    pub mode: Option<Mode>,
}

/// A machine as its emulator was told to call it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its name, in what of it can be shown; empty where it has none.
    pub name: String,
    /// Its UUID.
    pub uuid: Option<Uuid>,
}

impl Process {
    /// What `/proc` tells of a process; `None` once it is gone.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let program = fs::read(format!("/proc/{pid}/comm")).ok()?;
        let program = String::from_utf8_lossy(&program);
        let program = program.trim_end_matches('\n');
        let machine = if is_emulator(pid, program) { machine_of(pid) } else { None };
        let program = shown(&program.chars().take(PROGRAM).collect::<String>());
        Some(Self { pid, program, uid: real_uid(pid)?, machine, mode: None })
    }

    /// Whether there is a process of this number.
    #[must_use]
    pub fn lives(pid: u32) -> bool {
        pid != 0 && fs::exists(format!("/proc/{pid}")).unwrap_or(true)
    }

    /// Whether it is a service like this one, whose locks are those of machines.
    pub(super) fn is_service(&self) -> bool {
        self.program == "vmlockd"
    }
}

/// The real user of a process, from `/proc/PID/status`.
fn real_uid(pid: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Whether it is QEMU, by the name of its program or of its file: `-name X,process=Y` changes the
/// former.
fn is_emulator(pid: u32, program: &str) -> bool {
    let known = |name: &[u8]| name.starts_with(b"qemu-") || name == b"kvm";
    let file = || {
        let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        path.file_name().map(|name| known(name.as_bytes()))
    };
    known(program.as_bytes()) || file().unwrap_or(false)
}

fn machine_of(pid: u32) -> Option<Machine> {
    let mut line = Vec::new();
    let file = File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(COMMAND_LINE).read_to_end(&mut line).ok()?;
    read_command_line(&line)
}

/// The machine by a command line of QEMU's: `-name guest=X,…`, `-name X,…`, `-uuid U`; the last of
/// each counts, as for QEMU. `None` where neither is given.
#[must_use]
pub fn read_command_line(line: &[u8]) -> Option<Machine> {
    let mut words = line.split(|byte| *byte == 0);
    let (mut name, mut uuid) = (None, None);
    while let Some(word) = words.next() {
        let option = word.strip_prefix(b"--").or_else(|| word.strip_prefix(b"-"));
        match option {
            Some(b"name") => name = words.next().and_then(guest).or(name),
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
    // What a machine without a name is called is not its UUID.
    let name = name.map(|name| shown_name(&name, Uuid::nil())).unwrap_or_default();
    Some(Machine { name, uuid })
}

/// The guest's name in the value of `-name`: its first part, or the one that says so. A comma in it
/// is doubled.
fn guest(value: &[u8]) -> Option<Vec<u8>> {
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
    fn a_process_is_described() {
        let me = Process::of(std::process::id()).unwrap();
        assert_eq!(me.uid, nix::unistd::getuid().as_raw());
        assert!(!me.program.is_empty());
        assert_eq!(me.machine, None);
        assert!(Process::of(u32::MAX).is_none());
        assert!(Process::lives(me.pid) && !Process::lives(u32::MAX) && !Process::lives(0));
    }

    fn name(line: &[u8]) -> Option<String> {
        read_command_line(line).map(|machine| machine.name)
    }

    #[test]
    fn a_machine_is_named_as_qemu_was_told() {
        for (line, told) in [
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
            assert_eq!(name(line).as_deref(), told, "{}", line.escape_ascii());
        }
        let machine = read_command_line(
            b"kvm\0-uuid\x004dea22b3-1d52-d8f3-2516-782e98ab3fa0\0-uuid\0no uuid\0",
        );
        let machine = machine.unwrap();
        assert_eq!(machine.name, "");
        assert_eq!(machine.uuid.unwrap().to_string(), "4dea22b3-1d52-d8f3-2516-782e98ab3fa0");
    }

    proptest! {
        #[test]
        fn no_command_line_can_be_misread(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let line = [b"q\0-name\0".as_slice(), &line].concat();
            if let Some(machine) = read_command_line(&line) {
                prop_assert!(machine.name.len() <= super::super::owner::NAME_MAX);
                prop_assert!(machine.name.chars().all(super::super::printable::is_printable));
            }
        }
    }
}

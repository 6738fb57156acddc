//! What one process is.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use super::position::Position;
use crate::lock::model::process::{Machine, Process, is_emulator, read_command_line};
use crate::lock::text::escape::shown;

/// How much of a command line is read; the machine's name stands near its beginning.
const COMMAND_LINE: u64 = 32 * 1024;
/// The longest name of a program that is shown. The kernel keeps 15 bytes.
const PROGRAM: usize = 64;

/// Describes a process; `None` once it is gone. Where `closely` is not wanted, since others hung
/// there, it is done without what takes a lock of the process.
pub(super) fn describe(pid: u32, closely: bool, position: &Position) -> Option<Process> {
    let folder = format!("/proc/{pid}");
    position.at(pid, fs::metadata(&folder).ok()?.uid());
    let program = fs::read(format!("{folder}/comm")).ok()?;
    let program = String::from_utf8_lossy(&program);
    let program = program.trim_end_matches('\n');
    // `-name X,process=Y` changes the name of the program.
    let file_is_emulator = || {
        let path = fs::read_link(format!("{folder}/exe")).ok()?;
        path.file_name().map(|name| is_emulator(name.as_bytes()))
    };
    let runs_machine = || is_emulator(program.as_bytes()) || file_is_emulator().unwrap_or(false);
    let machine = if closely && runs_machine() { machine_of(&folder) } else { None };
    let program = shown(&program.chars().take(PROGRAM).collect::<String>());
    Some(Process { pid, program, uid: real_uid(&folder)?, machine, mode: None })
}

/// The real user of a process, from `/proc/PID/status`.
fn real_uid(folder: &str) -> Option<u32> {
    fs::read_to_string(format!("{folder}/status"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn machine_of(folder: &str) -> Option<Machine> {
    let mut line = Vec::new();
    let file = File::open(format!("{folder}/cmdline")).ok()?;
    file.take(COMMAND_LINE).read_to_end(&mut line).ok()?;
    read_command_line(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described() {
        let position = Position::new().unwrap();
        let me = describe(std::process::id(), true, &position).unwrap();
        assert_eq!(me.uid, rustix::process::getuid().as_raw());
        assert!(!me.program.is_empty());
        assert_eq!(me.machine, None);
        assert_eq!(position.read().pid, std::process::id());
        assert!(describe(u32::MAX, true, &position).is_none());
    }
}

//! Describes a process.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use crate::inspector::progress::ProgressFile;
use crate::lock::model::process::{Machine, Process, is_emulator, parse_command_line};
use crate::lock::text::escape::shown;

/// The maximum length that is read of a command line, in bytes. The name of the VM is near its
/// beginning.
const MAX_COMMAND_LINE: u64 = 32 * 1024;
/// The maximum length of a program name. The kernel keeps 15 bytes.
const MAX_PROGRAM_NAME: usize = 64;

/// Describes a process; `None` if it does not exist. Unless `detailed`, files that take a lock of
/// the process are not read, since workers have hung at it.
pub(super) fn describe(pid: u32, detailed: bool, progress: &ProgressFile) -> Option<Process> {
    let dir = format!("/proc/{pid}");
    progress.set_process(pid, fs::metadata(&dir).ok()?.uid());
    let program = fs::read(format!("{dir}/comm")).ok()?;
    let program = String::from_utf8_lossy(&program);
    let program = program.trim_end_matches('\n');
    // `-name X,process=Y` changes the name of the program.
    let file_is_emulator = || {
        let path = fs::read_link(format!("{dir}/exe")).ok()?;
        path.file_name().map(|name| is_emulator(name.as_bytes()))
    };
    let is_emulator_process =
        || is_emulator(program.as_bytes()) || file_is_emulator().unwrap_or(false);
    let machine = if detailed && is_emulator_process() { read_vm(&dir) } else { None };
    let program = shown(&program.chars().take(MAX_PROGRAM_NAME).collect::<String>());
    Some(Process { pid, program, uid: real_uid(&dir)?, machine, mode: None })
}

/// Returns the real user of a process from `/proc/PID/status`.
fn real_uid(dir: &str) -> Option<u32> {
    fs::read_to_string(format!("{dir}/status"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn read_vm(dir: &str) -> Option<Machine> {
    let mut line = Vec::new();
    let file = File::open(format!("{dir}/cmdline")).ok()?;
    file.take(MAX_COMMAND_LINE).read_to_end(&mut line).ok()?;
    parse_command_line(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described() {
        let progress = ProgressFile::new().unwrap();
        let me = describe(std::process::id(), true, &progress).unwrap();
        assert_eq!(me.uid, rustix::process::getuid().as_raw());
        assert!(!me.program.is_empty());
        assert_eq!(me.machine, None);
        assert_eq!(progress.read().pid, std::process::id());
        assert!(describe(u32::MAX, true, &progress).is_none());
    }
}

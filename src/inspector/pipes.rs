//! Finds pipes and sockets of the service among what processes have open, by their inodes.
//!
//! Only the links in `/proc/PID/fd` and `/proc/PID/task/TID/fd` are read, which takes no lock that a
//! process could hold. So no process is skipped. The file tables of threads are looked at only for what
//! the tables of thread group leaders do not have ([`crate::lock::foreign::file_tables`]), and not of processes at
//! which workers hang.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use super::channel::DESCRIPTORS;
use super::position::Position;
use super::walk::Selection;
use super::{Answer, Reply};
use crate::lock::foreign::file_tables::threads_with_own_table;

/// `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH` and `CAP_SYS_PTRACE`, as bits (<linux/capability.h>).
const OVERRIDE: u64 = 1 << 1;
const READ_SEARCH: u64 = 1 << 2;
const PTRACE: u64 = 1 << 19;

/// Opens the write ends of these pipes once more, where processes have them open. Fails where this
/// process may not look at all others: what it does not find could be there.
pub(super) fn open_pipes(inodes: &[u64], selection: &Selection<'_>, position: &Position) -> Reply {
    if !sees_all() {
        return Answer::Failed("it may not look at all processes".to_owned()).into();
    }
    let mut missing: HashSet<u64> = inodes.iter().copied().collect();
    let (mut found, mut fds) = (Vec::new(), Vec::new());
    let own = PathBuf::from(format!("/proc/{}", std::process::id()));
    let mut look = |table: &Path| {
        for file in files(table) {
            if fds.len() == DESCRIPTORS || missing.is_empty() {
                return false;
            }
            position.step();
            if let Some((inode, end)) = pipe_at(&file, &missing) {
                missing.remove(&inode);
                found.push(inode);
                fds.push(end);
            }
        }
        true
    };
    let others = || processes().filter(|process| *process != own);
    let leaders = others().all(|process| {
        at(&process, position);
        look(&process)
    });
    // What is still missing may be in the table of a thread.
    let _ = leaders
        && others().filter(|process| number(process).is_some_and(|pid| selection.has(pid))).all(
            |process| {
                at(&process, position);
                tables_of_threads(&process, position).all(|thread| look(&thread))
            },
        );
    let full = fds.len() == DESCRIPTORS && !missing.is_empty();
    Reply { answer: Answer::Opened { inodes: found, full }, fds }
}

/// Whether a process has files open to which all of these links lead.
pub(super) fn has_open(pid: u32, links: &[String], position: &Position) -> io::Result<bool> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    at(&process, position);
    let mut missing: HashSet<&str> = links.iter().map(String::as_str).collect();
    let mut hidden = None;
    let mut look = |table: &Path| -> io::Result<bool> {
        for file in fs::read_dir(table.join("fd"))? {
            position.step();
            match fs::read_link(file?.path()) {
                Ok(link) => {
                    link.to_str().map(|link| missing.remove(link));
                }
                // Listing them is allowed to more than reading them.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    hidden = Some(error);
                }
                // One that was closed meanwhile.
                Err(_) => {}
            }
        }
        Ok(missing.is_empty())
    };
    if look(&process)? {
        return Ok(true);
    }
    for thread in tables_of_threads(&process, position) {
        match look(&thread) {
            Ok(false) => {}
            // The thread has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    match hidden {
        Some(error) if !missing.is_empty() => Err(error),
        _ => Ok(missing.is_empty()),
    }
}

/// Whether no process is hidden from this one. A user's instance sees those of its user, among which
/// its pipes are.
fn sees_all() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let powers = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let powers = powers.and_then(|powers| u64::from_str_radix(powers.trim(), 16).ok());
    powers.is_some_and(|powers| powers & PTRACE != 0 && powers & (OVERRIDE | READ_SEARCH) != 0)
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())
    };
    entries.map(|entry| entry.path()).filter(is_process)
}

/// The descriptors of a process, or of a thread.
fn files(of: &Path) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(of.join("fd")).into_iter().flatten().flatten();
    files.map(|file| file.path())
}

/// The directories of those threads of a process that have a file table of their own.
fn tables_of_threads(process: &Path, position: &Position) -> impl Iterator<Item = PathBuf> {
    let go_on = || {
        position.step();
        true
    };
    let threads = threads_with_own_table(process, go_on);
    threads.map(|thread| process.join("task").join(thread.to_string()))
}

fn number(process: &Path) -> Option<u32> {
    process.file_name()?.to_str()?.parse().ok()
}

fn at(process: &Path, position: &Position) {
    let pid = number(process);
    let uid = fs::metadata(process).map_or(0, |folder| folder.uid());
    position.at(pid.unwrap_or_default(), uid);
}

/// The write end of a pipe that a process has open, if it is one of these. The process may exchange
/// what is there at any time; so it is first opened as it is, then looked at, and then opened for
/// writing through that.
fn pipe_at(path: &Path, wanted: &HashSet<u64>) -> Option<(u64, OwnedFd)> {
    let link = fs::read_link(path).ok()?;
    let inode = link.to_str()?.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok()?;
    if !wanted.contains(&inode) {
        return None;
    }
    let pin = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let stat = fstat(&pin).ok()?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    // Made by the service, and no pipe of another that has got the same number.
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if kind != FileType::Fifo || stat.st_ino != inode || !ours {
        return None;
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let own = format!("/proc/self/fd/{}", pin.as_raw_fd());
    // Were the process no reader, the lifeline would end at once, as any without a reader does.
    let end = open(own.as_str(), flags, Mode::empty()).ok()?;
    Some((inode, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspector::skip::Skipped;
    use std::process::{Command, Stdio};

    #[test]
    fn a_pipe_is_found_in_the_process_that_has_it() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let inode = fstat(&writer).unwrap().st_ino;
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(reader)).spawn().unwrap();
        drop(writer);
        let position = Position::new().unwrap();
        let skipped = Skipped::default();
        let selection = Selection::new(&skipped, std::process::id());
        let find = || match open_pipes(&[inode, u64::MAX], &selection, &position) {
            Reply { answer: Answer::Opened { inodes, full: false }, fds } => (inodes, fds),
            reply => panic!("{reply:?}"),
        };
        let (inodes, fds) = find();
        assert_eq!((inodes, fds.len()), (vec![inode], 1));
        assert_eq!(fstat(&fds[0]).unwrap().st_ino, inode);
        let link = format!("pipe:[{inode}]");
        let has = |link: &str| has_open(child.id(), &[link.to_owned()], &position).unwrap();
        assert!(has(&link) && !has("pipe:[1]"));
        child.kill().unwrap();
        child.wait().unwrap();
        drop(fds);
        assert!(find().0.is_empty());
    }
}

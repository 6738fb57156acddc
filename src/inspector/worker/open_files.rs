//! Finds pipes and sockets of the service among the open files of processes, by their inodes.
//!
//! Only the links in `/proc/PID/fd` and `/proc/PID/task/TID/fd` are read, which takes no lock that
//! a process can hold. Therefore no process is skipped. The file tables of threads are read only
//! for pipes that no thread group leader has open ([`crate::lock::foreign::file_tables`]), and not for
//! processes at which workers hang.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use super::proc::pids;
use super::selection::Selection;
use crate::inspector::channel::MAX_DESCRIPTORS;
use crate::inspector::progress::ProgressFile;
use crate::inspector::protocol::{Answer, Reply};
use crate::lock::foreign::file_tables::threads_with_own_table;

/// `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH` and `CAP_SYS_PTRACE`, as bits (<linux/capability.h>).
const OVERRIDE: u64 = 1 << 1;
const READ_SEARCH: u64 = 1 << 2;
const PTRACE: u64 = 1 << 19;

/// Opens the write ends of these pipes once more, in the processes that have them open. Fails if
/// this worker may not read all other processes, since a missing pipe could be open in one of them.
pub(super) fn open_pipes(
    inodes: &[u64],
    selection: &Selection<'_>,
    progress: &ProgressFile,
) -> Reply {
    if !can_read_all_processes() {
        return Answer::Failed("it may not look at all processes".to_owned()).into();
    }
    let mut missing: HashSet<u64> = inodes.iter().copied().collect();
    let (mut found, mut fds) = (Vec::new(), Vec::new());
    let own = std::process::id();
    let mut scan = |table: &Path| {
        for file in files(table) {
            if fds.len() == MAX_DESCRIPTORS || missing.is_empty() {
                return false;
            }
            progress.advance();
            if let Some((inode, end)) = reopen_write_end(&file, &missing) {
                missing.remove(&inode);
                found.push(inode);
                fds.push(end);
            }
        }
        true
    };
    let others = || pids().filter(|pid| *pid != own);
    let leaders = others().all(|pid| scan(&begin_process(pid, progress)));
    // A pipe that is still missing may be in the table of a thread.
    let _ = leaders
        && others().filter(|pid| selection.has(*pid)).all(|pid| {
            let process = begin_process(pid, progress);
            thread_tables(&process, progress).all(|thread| scan(&thread))
        });
    let full = fds.len() == MAX_DESCRIPTORS && !missing.is_empty();
    Reply { answer: Answer::Opened { inodes: found, full }, fds }
}

/// Returns whether a process has open files for all of these links.
pub(super) fn has_open(pid: u32, links: &[String], progress: &ProgressFile) -> io::Result<bool> {
    let process = begin_process(pid, progress);
    let mut missing: HashSet<&str> = links.iter().map(String::as_str).collect();
    let mut hidden = None;
    let mut scan = |table: &Path| -> io::Result<bool> {
        for file in fs::read_dir(table.join("fd"))? {
            progress.advance();
            match fs::read_link(file?.path()) {
                Ok(link) => {
                    link.to_str().map(|link| missing.remove(link));
                }
                // Listing descriptors requires fewer permissions than reading them.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    hidden = Some(error);
                }
                // The descriptor was closed meanwhile.
                Err(_) => {}
            }
        }
        Ok(missing.is_empty())
    };
    if scan(&process)? {
        return Ok(true);
    }
    for thread in thread_tables(&process, progress) {
        match scan(&thread) {
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

/// Returns whether this worker may read all processes. The instance of a user may read the
/// processes of its user, among which its pipes are.
fn can_read_all_processes() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities =
        capabilities.and_then(|capabilities| u64::from_str_radix(capabilities.trim(), 16).ok());
    capabilities.is_some_and(|capabilities| {
        capabilities & PTRACE != 0 && capabilities & (OVERRIDE | READ_SEARCH) != 0
    })
}

/// Returns the descriptors of a process or thread.
fn files(of: &Path) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(of.join("fd")).into_iter().flatten().flatten();
    files.map(|file| file.path())
}

/// Returns the directories of the threads of a process that have a file table of their own.
fn thread_tables(process: &Path, progress: &ProgressFile) -> impl Iterator<Item = PathBuf> {
    let keep_going = || {
        progress.advance();
        true
    };
    let threads = threads_with_own_table(process, keep_going);
    threads.map(|thread| process.join("task").join(thread.to_string()))
}

/// Records that the worker reads a process. Returns the directory of the process.
fn begin_process(pid: u32, progress: &ProgressFile) -> PathBuf {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let uid = fs::metadata(&process).map_or(0, |dir| dir.uid());
    progress.set_process(pid, uid);
    process
}

/// Opens the write end of a pipe that a process has open, if it is one of `wanted`. The process may
/// replace the descriptor at any time; therefore it is opened with `O_PATH` first, then checked,
/// and then opened for writing through this descriptor.
fn reopen_write_end(path: &Path, wanted: &HashSet<u64>) -> Option<(u64, OwnedFd)> {
    let link = fs::read_link(path).ok()?;
    let inode = link.to_str()?.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok()?;
    if !wanted.contains(&inode) {
        return None;
    }
    let pin = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let stat = fstat(&pin).ok()?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    // The pipe was created by the service, and is not another one with the same number.
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if kind != FileType::Fifo || stat.st_ino != inode || !ours {
        return None;
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let own = format!("/proc/self/fd/{}", pin.as_raw_fd());
    // If the process has no read end, the lifeline ends at once, like any pipe without a reader.
    let end = open(own.as_str(), flags, Mode::empty()).ok()?;
    Some((inode, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspector::skip_list::SkipList;
    use std::process::{Command, Stdio};

    #[test]
    fn a_pipe_is_found_in_the_process_that_has_it() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let inode = fstat(&writer).unwrap().st_ino;
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(reader)).spawn().unwrap();
        drop(writer);
        let progress = ProgressFile::new().unwrap();
        let skipped = SkipList::default();
        let selection = Selection::new(&skipped, std::process::id());
        let find = || match open_pipes(&[inode, u64::MAX], &selection, &progress) {
            Reply { answer: Answer::Opened { inodes, full: false }, fds } => (inodes, fds),
            reply => panic!("{reply:?}"),
        };
        let (inodes, fds) = find();
        assert_eq!((inodes, fds.len()), (vec![inode], 1));
        assert_eq!(fstat(&fds[0]).unwrap().st_ino, inode);
        let link = format!("pipe:[{inode}]");
        let has = |link: &str| has_open(child.id(), &[link.to_owned()], &progress).unwrap();
        assert!(has(&link) && !has("pipe:[1]"));
        child.kill().unwrap();
        child.wait().unwrap();
        drop(fds);
        assert!(find().0.is_empty());
    }
}

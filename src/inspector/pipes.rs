//! Finds pipes and sockets of the service among what processes have open, by their inodes.
//!
//! Only the links in `/proc/PID/fd` are read, which takes no lock that a process could hold. So no
//! process is skipped.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat};

use super::channel::DESCRIPTORS;
use super::position::Position;
use super::{Answer, Reply};

/// `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH` and `CAP_SYS_PTRACE`, as bits (<linux/capability.h>).
const OVERRIDE: u64 = 1 << 1;
const READ_SEARCH: u64 = 1 << 2;
const PTRACE: u64 = 1 << 19;

/// Opens the write ends of these pipes once more, where processes have them open. Fails where this
/// process may not look at all others: what it does not find could be there.
pub(super) fn open_pipes(inodes: &[u64], position: &Position) -> Reply {
    if !sees_all() {
        return Answer::Failed("it may not look at all processes".to_owned()).into();
    }
    let mut missing: HashSet<u64> = inodes.iter().copied().collect();
    let (mut found, mut fds) = (Vec::new(), Vec::new());
    let own = PathBuf::from(format!("/proc/{}", std::process::id()));
    for process in processes().filter(|process| *process != own) {
        at(&process, position);
        for file in files(&process) {
            if fds.len() == DESCRIPTORS || missing.is_empty() {
                break;
            }
            position.step();
            if let Some((inode, end)) = pipe_at(&file, &missing) {
                missing.remove(&inode);
                found.push(inode);
                fds.push(end);
            }
        }
    }
    let full = fds.len() == DESCRIPTORS && !missing.is_empty();
    Reply { answer: Answer::Opened { inodes: found, full }, fds }
}

/// Whether a process has files open to which all of these links lead.
pub(super) fn has_open(pid: u32, links: &[String], position: &Position) -> io::Result<bool> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    at(&process, position);
    let mut missing: HashSet<&str> = links.iter().map(String::as_str).collect();
    let mut hidden = None;
    for file in fs::read_dir(process.join("fd"))? {
        position.step();
        match fs::read_link(file?.path()) {
            Ok(link) => {
                link.to_str().map(|link| missing.remove(link));
            }
            // Listing them is allowed to more than reading them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden = Some(error),
            // One that was closed meanwhile.
            Err(_) => {}
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
    if !nix::unistd::geteuid().is_root() {
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

fn files(process: &Path) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    files.map(|file| file.path())
}

fn at(process: &Path, position: &Position) {
    let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok());
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
    let pin = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let stat = fstat(&pin).ok()?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    // Made by the service, and no pipe of another that has got the same number.
    let ours = stat.st_uid == nix::unistd::geteuid().as_raw();
    if kind != SFlag::S_IFIFO || stat.st_ino != inode || !ours {
        return None;
    }
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let own = format!("/proc/self/fd/{}", pin.as_raw_fd());
    // Were the process no reader, the lifeline would end at once, as any without a reader does.
    let end = nix::fcntl::open(own.as_str(), flags, Mode::empty()).ok()?;
    Some((inode, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_pipe_is_found_in_the_process_that_has_it() {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let inode = fstat(&writer).unwrap().st_ino;
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(reader)).spawn().unwrap();
        drop(writer);
        let position = Position::new().unwrap();
        let find = || match open_pipes(&[inode, u64::MAX], &position) {
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

//! Locks that an NFS server gave up while it did not hear of this host.
//!
//! An `NFSv4` server keeps a host's locks for a lease time, and may give them to others after that.
//! The client marks them lost, and tells nobody: locking again on the same description succeeds if
//! nobody has the lock any more, as though nothing had been, though another host may have written
//! in between (`nfs.recover_lost_locks` in the kernel's `kernel-parameters.txt`). What does tell is
//! reading by the description that has the lock: it fails with EIO until that is closed.

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::statfs::{NFS_SUPER_MAGIC, fstatfs};
use rustix::io::pread;

use crate::lock::path::open;

/// As much as is read: what any server's block is a multiple of.
const SAMPLE: usize = 512;

/// Whether the lock that a description has was given up. Reads the file's beginning, past all
/// caches, and changes nothing.
///
/// # Errors
///
/// Where that can't be told: the file can't be read by another description either.
pub(in crate::lock) fn is_expired(file: &File) -> Result<bool, Errno> {
    if fstatfs(file)?.filesystem_type() != NFS_SUPER_MAGIC {
        return Ok(false);
    }
    match sample(file) {
        Err(Errno::EIO) => {}
        // Not by this one, which was opened for writing alone, or not past the caches.
        Ok(()) | Err(Errno::EBADF | Errno::EINVAL) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    // A server's broken disk is no lost lock: nobody could read it.
    sample(&open::reopen(file.as_fd(), false)?).map(|()| true)
}

/// The description is ours alone, so nobody else reads while it is open in another way.
fn sample(file: &File) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT))?;
    let read = pread(file, &mut [0u8; SAMPLE], 0);
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    read.map(drop).map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}

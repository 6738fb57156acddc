//! Locks that an NFS server has dropped because it lost contact to this host.
//!
//! An `NFSv4` server keeps a host's locks for a lease time, and may grant them to others after
//! that. The client marks them as lost, and does not report it: locking again on the same
//! description succeeds if no other host has the lock any more, as if it had never been lost,
//! although another host may have written in between (`nfs.recover_lost_locks` in the kernel's
//! `kernel-parameters.txt`). A read through the description that has the lock detects the loss: it
//! fails with EIO until that description is closed.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, pread};

use crate::lock::path::fs_type::FsType;
use crate::lock::path::open;

/// The number of bytes read: the block size of every server is a multiple of it.
const SAMPLE: usize = 512;

/// Whether the server has dropped the lock of a description. Reads the beginning of the file,
/// bypassing all caches, and changes nothing.
///
/// # Errors
///
/// If this is unknown: the file cannot be read through another description either.
pub(in crate::lock) fn is_expired(file: &File) -> Result<bool, Errno> {
    if FsType::of(file)? != FsType::NFS {
        return Ok(false);
    }
    match sample(file) {
        Err(Errno::IO) => {}
        // Not readable through this description, which is open for writing only, or not uncached.
        Ok(()) | Err(Errno::BADF | Errno::INVAL) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    // An I/O error of the server's storage is no lost lock: then every read fails.
    sample(&open::reopen(file.as_fd(), false)?).map(|()| true)
}

/// Only this thread uses the description, so no other read sees the changed flags.
fn sample(file: &File) -> Result<(), Errno> {
    let flags = fcntl_getfl(file)?;
    fcntl_setfl(file, flags | OFlags::DIRECT)?;
    let read = pread(file, &mut [0u8; SAMPLE], 0);
    fcntl_setfl(file, flags)?;
    read.map(drop)
}

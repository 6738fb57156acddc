//! Keeps the descriptors that accompany calls, and passes stand-ins to zbus.
//!
//! zbus copies the descriptors of a message and closes the copies on the event loop, where a
//! blocking `close(2)` would stop the service. A stand-in is an empty file in memory. A method
//! exchanges the stand-in for the descriptor. Descriptors that no method has exchanged are closed
//! when the call is answered.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{MemfdFlags, fstat, memfd_create};

use crate::lock::descriptor::received::Received;
use crate::sync::lock;

/// The descriptors that are not exchanged yet, by the inode number of the stand-in.
static ORIGINALS: Mutex<BTreeMap<u64, Received>> = Mutex::new(BTreeMap::new());

/// The stand-ins of one call. Closes the descriptors that no method has exchanged on drop.
#[derive(Debug, Default)]
pub(in crate::admission) struct StandIns(Vec<u64>);

impl StandIns {
    /// Returns whether no descriptor accompanies the call.
    pub(in crate::admission) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for StandIns {
    fn drop(&mut self) {
        if !self.is_empty() {
            let mut originals = lock(&ORIGINALS);
            for inode in &self.0 {
                originals.remove(inode);
            }
        }
    }
}

/// Creates a stand-in for each descriptor, and keeps the descriptors.
///
/// # Errors
///
/// If there is no free descriptor or no memory.
pub(in crate::admission) fn create(
    descriptors: Vec<Received>,
) -> io::Result<(Vec<OwnedFd>, StandIns)> {
    let (mut files, mut stand_ins) = (Vec::new(), StandIns::default());
    for received in descriptors {
        let stand_in = memfd_create(c"vmlockd-descriptor", MemfdFlags::CLOEXEC)?;
        let inode = fstat(&stand_in)?.st_ino;
        lock(&ORIGINALS).insert(inode, received);
        stand_ins.0.push(inode);
        files.push(stand_in);
    }
    Ok((files, stand_ins))
}

/// Returns the descriptor of a stand-in; `None` if a method has exchanged the stand-in before.
pub fn exchange(stand_in: impl AsFd) -> Option<Received> {
    let inode = fstat(stand_in).ok()?.st_ino;
    lock(&ORIGINALS).remove(&inode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn pipe() -> (io::PipeReader, Received) {
        let (ours, theirs) = io::pipe().unwrap();
        (ours, OwnedFd::from(theirs).into())
    }

    #[test]
    fn a_stand_in_is_exchanged_once() {
        let ((mut ours, theirs), (mut left, other)) = (pipe(), pipe());
        let (files, stand_ins) = create(vec![theirs, other]).unwrap();
        let copy = files[0].try_clone().unwrap();
        drop(exchange(copy).unwrap());
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        assert!(exchange(&files[0]).is_none());
        drop(stand_ins);
        assert_eq!(left.read(&mut [0]).unwrap(), 0);
        assert!(exchange(&files[1]).is_none());
    }
}

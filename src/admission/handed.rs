//! The descriptors that accompany calls. They are kept here, and zbus is given stand-ins.
//!
//! zbus copies the descriptors of a message and closes the copies on the event loop, where a
//! `close(2)` that blocks would stop the service. A stand-in is an empty file in memory. A method
//! exchanges it for the descriptor; what no method has taken is closed once the call is answered.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;

use super::lock;
use crate::lock::received::Received;

/// What was handed out and not taken, by the inode number of the stand-in.
static KEPT: Mutex<BTreeMap<u64, Received>> = Mutex::new(BTreeMap::new());

/// The stand-ins of one call. What no method has taken is closed when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Handed(Vec<u64>);

impl Handed {
    /// Whether no descriptor accompanies the call.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if !self.is_empty() {
            let mut kept = lock(&KEPT);
            for number in &self.0 {
                kept.remove(number);
            }
        }
    }
}

/// Keeps descriptors, and returns a stand-in for each.
///
/// # Errors
///
/// Where descriptors or memory have run out.
pub(super) fn keep(descriptors: Vec<Received>) -> io::Result<(Vec<OwnedFd>, Handed)> {
    let (mut stand_ins, mut handed) = (Vec::new(), Handed::default());
    for received in descriptors {
        let stand_in = memfd_create(c"vmlockd-descriptor", MFdFlags::MFD_CLOEXEC)?;
        let number = fstat(&stand_in)?.st_ino;
        lock(&KEPT).insert(number, received);
        handed.0.push(number);
        stand_ins.push(stand_in);
    }
    Ok((stand_ins, handed))
}

/// Returns the descriptor that a stand-in is for; `None` where a method has taken it before.
pub fn take(stand_in: impl AsFd) -> Option<Received> {
    let number = fstat(stand_in).ok()?.st_ino;
    lock(&KEPT).remove(&number)
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
    fn what_was_handed_out_is_taken_once() {
        let ((mut ours, theirs), (mut left, other)) = (pipe(), pipe());
        let (stand_ins, handed) = keep(vec![theirs, other]).unwrap();
        let copy = stand_ins[0].try_clone().unwrap();
        drop(take(copy).unwrap());
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        assert!(take(&stand_ins[0]).is_none());
        drop(handed);
        assert_eq!(left.read(&mut [0]).unwrap(), 0);
        assert!(take(&stand_ins[1]).is_none());
    }
}

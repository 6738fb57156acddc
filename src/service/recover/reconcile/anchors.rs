//! Reconciles the records of anchors with their stashed descriptors.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Reconciliation;
use crate::keep::{AnchorRecord, KeyPart, StashKey};
use crate::life::{Connection, Lifeline, Process};
use crate::lock::model::owner::AnchorId;
use crate::lock::{Anchor, OwnerId};
use crate::service::core::error::Error;
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::report::event_log::Vm;

impl Reconciliation {
    /// Returns the anchors of an owner that are alive, or that have a descriptor that will report
    /// their end.
    pub(super) fn attach(
        &mut self,
        records: &[AnchorRecord],
        pipes: &mut HashMap<u64, OwnedFd>,
    ) -> Result<Vec<(AnchorId, AnchorHandle)>, Error> {
        let mut handle = Vec::new();
        for record in records {
            let (Some(owner), Some(anchor)) = (record.owner(), record.anchor()) else { continue };
            let key = StashKey { owner, part: KeyPart::Anchor(record.number()) };
            let sign = record.identity();
            let known = |found: Process| process(found.with_permission(record.is_permitted()));
            let has_stash = self.fds.remove(&key);
            let found = match (anchor, has_stash) {
                (Anchor::Lifeline, Some(fd)) => Lifeline::from_fd(fd).map(lifeline),
                (Anchor::Lifeline, None) => match pipes.remove(&sign.inode) {
                    Some(fd) => Lifeline::from_fd(fd).map(lifeline),
                    None => continue,
                },
                (Anchor::Process { pid }, Some(fd)) => Process::from_stashed(fd, pid).map(known),
                (Anchor::Process { pid }, None) => self.find_process(pid, sign).map(known),
                (Anchor::Connection, Some(fd)) => Ok(connection(fd)),
                (Anchor::Connection, None) | (Anchor::Manual, _) => continue,
            };
            match found {
                Ok(found) => handle.push((record.number(), found)),
                Err(error) if error.is_exited() => {
                    let vm = Vm(owner, "");
                    tracing::info!(%error, owner.uuid = %owner.uuid, owner.uid = owner.uid, "an anchor of {vm} has ended");
                }
                // A failed lookup is no evidence that the process has ended.
                Err(error) => return Err(error.into()),
            }
        }
        Ok(handle)
    }

    /// Restores stashed anchors of an owner whose records are damaged.
    pub(super) fn attach_unrecorded(
        &mut self,
        owner: OwnerId,
        record: AnchorId,
    ) -> Vec<(AnchorId, AnchorHandle)> {
        if !self.damaged {
            return Vec::new();
        }
        let of_owner = |key: &&StashKey| {
            key.owner == owner && matches!(key.part, KeyPart::Anchor(number) if number > record)
        };
        let keys: Vec<StashKey> = self.fds.keys().filter(of_owner).copied().collect();
        let mut handle = Vec::new();
        for key in keys {
            let (Some(fd), KeyPart::Anchor(number)) = (self.fds.remove(&key), key.part) else {
                continue;
            };
            self.state.count_anchors_from(number);
            if Connection::is_socket(&fd).unwrap_or(false) {
                handle.push((number, connection(fd)));
                continue;
            }
            let is_process = fd.try_clone().map(Process::from_pidfd);
            match is_process {
                Ok(Ok(found)) => handle.push((number, process(found))),
                Ok(Err(crate::life::Error::NotAProcess)) => {
                    handle
                        .extend(Lifeline::from_fd(fd).ok().map(|found| (number, lifeline(found))));
                }
                // The process has ended.
                Ok(Err(_)) | Err(_) => {}
            }
        }
        handle
    }
}

fn lifeline(lifeline: Lifeline) -> AnchorHandle {
    AnchorHandle::Lifeline(Arc::new(lifeline))
}

fn process(process: Process) -> AnchorHandle {
    AnchorHandle::Process(Arc::new(process))
}

fn connection(fd: OwnedFd) -> AnchorHandle {
    AnchorHandle::Connection(Arc::new(Connection::from_fd(fd)))
}

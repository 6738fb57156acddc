//! Finds the processes that hold the lifelines of owners: a helper that a command left running
//! keeps the disks of its VM locked as long as it holds a lifeline.

use crate::lock::model::owner::shown_name;
use crate::lock::model::process::Process;
use crate::lock::model::process_search::Processes;
use crate::lock::model::refusal::Holder;
use crate::lock::{Anchor, OwnerId};
use crate::service::persist::anchor_handle::AnchorHandle;
use crate::service::state::State;

/// The maximum number of lifelines in one search.
const MOST: usize = 16;

/// Lifelines of holders, in the order of the query to the inspector.
#[derive(Debug, Clone, Default)]
pub struct Lifelines {
    /// The index of the holder of each lifeline.
    of: Vec<usize>,
    /// The inodes of their pipes.
    inodes: Vec<u64>,
}

impl Lifelines {
    /// Returns the inodes of their pipes.
    #[must_use]
    pub fn inodes(&self) -> Vec<u64> {
        self.inodes.clone()
    }

    /// Adds the processes that were found to the holders of their lifelines.
    pub fn add_to(&self, found: Vec<Processes>, holders: &mut [Holder]) {
        for (place, processes) in self.of.iter().zip(found) {
            if let Some(holder) = holders.get_mut(*place) {
                holder.kept_by.merge(processes);
            }
        }
    }
}

/// The attributes by which the processes of an owner are recognised.
pub(in crate::service) struct OwnerProcesses {
    id: OwnerId,
    name: String,
    pids: Vec<u32>,
}

impl OwnerProcesses {
    /// Whether a process is the owner's own: bound to it, or an emulator that was started for its
    /// VM.
    pub(in crate::service) fn has(&self, process: &Process) -> bool {
        self.pids.contains(&process.pid) || is_vm_of(process, self.id, &self.name)
    }
}

/// Whether a process is an emulator that was started for the VM of an owner. Any process can claim
/// this; the claim of another user's process is accepted only for root's owners, whose emulators
/// run as other users.
fn is_vm_of(process: &Process, id: OwnerId, name: &str) -> bool {
    let may = id.uid == 0 || process.uid == id.uid;
    let named = shown_name(name.as_bytes(), id.uuid);
    let is_same = |machine: &crate::lock::model::process::Machine| {
        machine.uuid == Some(id.uuid) || (!machine.name.is_empty() && machine.name == named)
    };
    may && process.machine.as_ref().is_some_and(is_same)
}

impl State {
    /// Returns the lifelines of the holders that `wanted` selects.
    #[must_use]
    pub(in crate::service) fn lifelines_of(
        &self,
        holders: &[Holder],
        wanted: impl Fn(&Holder) -> bool,
    ) -> Lifelines {
        let mut lifelines = Lifelines::default();
        for (place, holder) in holders.iter().enumerate().filter(|(_, holder)| wanted(holder)) {
            let watches =
                self.owners.get(&holder.owner).map(|owner_state| owner_state.watches.values());
            let inodes = watches.into_iter().flatten().filter_map(|watch| match &watch.handle {
                AnchorHandle::Lifeline(lifeline) => lifeline.inode().ok(),
                AnchorHandle::Process(_) | AnchorHandle::Connection(_) => None,
            });
            for inode in inodes {
                if lifelines.inodes.len() < MOST && !lifelines.inodes.contains(&inode) {
                    lifelines.inodes.push(inode);
                    lifelines.of.push(place);
                }
            }
        }
        lifelines
    }

    /// Returns the attributes by which the processes of an owner are recognised.
    pub(in crate::service) fn own_processes(&self, id: OwnerId) -> OwnerProcesses {
        let owner = self.table.owner(id);
        let anchors = owner.into_iter().flat_map(|owner| owner.anchors.values());
        let pid = |anchor: &Anchor| match anchor {
            Anchor::Process { pid } => Some(*pid),
            _ => None,
        };
        let pids = anchors.filter_map(pid).collect();
        OwnerProcesses { id, name: owner.map(|owner| owner.name.clone()).unwrap_or_default(), pids }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::model::process::Machine;
    use uuid::Uuid;

    #[test]
    fn an_emulator_belongs_to_the_vm_that_it_names() {
        let uuid = Uuid::from_u128(7);
        let process = |uid, name: &str, uuid| Process {
            pid: 5,
            program: "qemu-system-x86".into(),
            uid,
            machine: Some(Machine { name: name.into(), uuid }),
            mode: None,
        };
        let (root, user) = (OwnerId::new(0, uuid), OwnerId::new(1000, uuid));
        for id in [root, user] {
            assert!(is_vm_of(&process(1000, "web1", None), id, "web1"));
            assert!(is_vm_of(&process(1000, "other", Some(uuid)), id, "web1"));
            assert!(!is_vm_of(&process(1000, "other", Some(Uuid::nil())), id, "web1"));
            assert!(!is_vm_of(&process(1000, "", None), id, ""));
        }
        assert!(is_vm_of(&process(64055, "web1", None), root, "web1"));
        assert!(!is_vm_of(&process(64055, "web1", None), user, "web1"));
    }
}

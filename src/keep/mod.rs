//! Floor 1: state that outlives the service process: stashed descriptors and the state file.
//!
//! A lock lasts as long as its open file description, and the description lasts as long as a
//! descriptor of it exists. The service therefore puts a copy of each descriptor into the stash
//! ([`stash`]): queues of socket pairs whose ends also lie in the file descriptor store of the
//! service manager, so a crash or a restart of the service closes none of them.
//!
//! The state file ([`state_file`]) in the runtime directory records what the descriptors mean: the
//! owners, their anchors and their locks, and how far each operation on them had come.
//!
//! Invariant: neither a crash between any two operations nor a damaged record frees a disk whose VM
//! lives. The modules document their contribution to it.

mod error;
pub mod stash;
pub mod state_file;

pub use error::Error;
pub use stash::exec::OwnDescriptors;
pub use stash::{Inherited, KeyPart, SharedFd, Stash, StashKey, Store};
pub use state_file::{
    AnchorIdentity, AnchorRecord, Contents, EntryStage, FormerLock, HighestNumbers, LockRecord,
    LockspaceRecord, OfferRecord, OwnerRecord, Record, RecordId, StateEntry, StateFile, Suspect,
    SuspectName,
};

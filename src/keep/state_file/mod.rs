//! The state file: the service's log of owners, anchors, locks, lockspaces and offers.
//!
//! 1. The file lies in the runtime directory, a tmpfs. It has a head, then one entry per thing, in
//!    slots of 64 bytes ([`mod@layout`]). The fields of an entry have checksums of their own
//!    ([`mod@fields`]).
//! 2. The file is mapped ([`mapping`]). An entry is appended before the thing exists, and its stage
//!    is set in place as an operation on the thing proceeds ([`writer`]): both are stores into
//!    memory, in an order that leaves no half entry wherever the service is killed ([`slot_file`]). The
//!    slots of removed things are reused; when most of a file is free, a new file is written beside
//!    the old one and renamed.
//! 3. The next service reads all entries that are not damaged, and counts those that are
//!    ([`scan`]). It understands the files of versions 3 to 7, which are lines of JSON ([`json`]),
//!    and it recovers the names of disks and leases from damaged entries ([`damaged`],
//!    [`suspect`]).
//! 4. The next service first writes a new file. If that fails, as on a full file system, it keeps
//!    the state in memory and updates the previous file in place ([`previous`]).
//! 5. `vmlockd --dump-state` prints the file as lines of JSON ([`dump`]).
//!
//! Nothing is synced to a disk: the file must outlive the service, not the host, since a reboot
//! ends all VMs. The head names the boot.

mod contents;
mod damaged;
pub mod dump;
mod entry;
mod fields;
mod json;
mod layout;
mod mapping;
mod previous;
mod reader;
mod record;
mod scan;
mod slot_file;
mod suspect;
mod writer;

pub use contents::{Contents, Damage};
pub use entry::{Encoding, EntryPosition, EntryStage, StateEntry};
pub use json::format::OLDEST;
pub use layout::VERSION;
pub use reader::{copy_aside, read};
pub use record::{
    AnchorIdentity, AnchorRecord, FormerLock, HighestNumbers, LockRecord, LockspaceRecord,
    OfferRecord, OwnerRecord, Record, RecordId,
};
pub use suspect::{Suspect, SuspectName};
pub use writer::StateFile;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;

//! The state file: the service's log of owners, anchors, locks, lockspaces and offers.
//!
//! 1. The file lies in the runtime directory. It has a head, then one entry per thing
//!    ([`mod@format`]).
//! 2. An entry is appended before the thing exists, and its stage is set in place as an operation
//!    on the thing proceeds ([`writer`]). Entries of removed things are cleared out by writing a
//!    new file beside the old one and renaming it ([`image`]).
//! 3. The next service reads all entries that are not damaged, and counts those that are
//!    ([`reader`]). It understands files of older versions ([`record`]), and it recovers the names
//!    of disks and leases from damaged entries ([`damaged`]).
//! 4. The next service first writes a new file. If that fails, as on a full file system, it keeps
//!    the state in memory and updates the previous file in place ([`previous`]).
//!
//! Nothing is synced to a disk: the file must outlive the service, not the host, since a reboot
//! ends all VMs. The head names the boot.

mod damaged;
mod format;
mod image;
mod previous;
mod reader;
mod record;
mod writer;

pub use damaged::{Suspect, SuspectName};
pub use format::{EntryPosition, EntryStage, OLDEST, StateEntry, VERSION};
pub use reader::{Contents, copy_aside, read};
pub use record::{
    AnchorIdentity, AnchorRecord, FormerLock, HighestNumbers, LockRecord, LockspaceRecord,
    OfferRecord, OwnerRecord, Record, RecordId,
};
pub use writer::StateFile;

#[cfg(test)]
mod tests;

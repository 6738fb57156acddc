//! Floor 0: what a lock is.
//!
//! [`table`] decides who may hold what and touches nothing. The rest finds out what a name means
//! ([`resolve`]), which file stands for it ([`lockspace`]), and locks that file's byte ([`take`],
//! [`held`], [`ofd`]), and decides nothing. Nothing here knows of a bus, an event loop or a log.

pub mod age;
mod attribute;
mod backing;
pub mod closer;
pub mod description;
pub mod directory;
pub mod error;
pub mod event;
pub mod examination;
mod expired;
pub mod extent;
pub mod fdinfo;
mod file_system;
pub mod file_tables;
pub mod held;
pub mod holder;
pub mod host;
pub mod identity;
pub mod in_use;
pub mod key;
pub mod lease;
mod lease_break;
pub mod lockspace;
mod lookup;
pub mod loop_device;
pub mod mode;
pub mod mount;
pub mod name_state;
pub mod naming;
pub mod ofd;
pub mod on_lost;
pub mod open;
mod overlay;
pub mod owner;
pub mod passed;
mod polled;
pub mod printable;
pub mod probe;
pub mod process;
pub mod queue;
pub mod reach;
pub mod received;
pub mod record;
pub mod recorded;
pub mod renewal;
pub mod resolve;
pub mod resource;
pub mod restored;
mod scsi;
pub mod sighting;
pub mod signature;
mod slots;
pub mod snapshot;
mod spots;
mod stack;
mod stranger;
mod swaps;
pub mod sysfs;
pub mod table;
pub mod take;
mod tool;
pub mod trial;
pub mod verdict;
pub mod view;
pub mod way;
pub mod work;

pub use error::Error;
pub use event::{Event, Loss, Reason};
pub use mode::Mode;
pub use owner::{Anchor, Front, Owner, OwnerId};
pub use record::{Lock, Proof, Want};
pub use table::Table;

//! Floor 0: locks and the operations on them.
//!
//! [`table`] decides who may hold what, and performs no I/O. The other modules find the resource
//! behind a name ([`resolve`]) and its lock file ([`lockspace`]), lock that file's byte
//! ([`acquire`], [`ofd`]), and decide nothing. Nothing here uses a bus, an event loop or a log.

pub mod acquire;
pub mod descriptor;
pub mod disk;
pub mod foreign;
pub mod holder_record;
pub mod lockspace;
pub mod model;
pub mod mount;
pub mod ofd;
pub mod path;
pub mod presence;
pub mod request;
pub mod resolve;
pub mod selftest;
pub mod sysfs;
pub mod table;
pub mod text;

pub use crate::lock::model::error::Error;
pub use crate::lock::model::event::{Event, Loss, Reason};
pub use crate::lock::model::lock::{Lock, Proof, Want};
pub use crate::lock::model::mode::Mode;
pub use crate::lock::model::owner::{Anchor, Front, Owner, OwnerId};
pub use table::Table;

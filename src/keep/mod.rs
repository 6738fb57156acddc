//! Floor 1: what outlives the service: descriptors that are parked, and records of whose they are.
//!
//! A lock lives as long as its open file description, and that as long as somebody has a
//! descriptor of it. So each is *parked*: sent into a socket pair of our own and left in flight
//! there ([`pair`], [`parking`]), while both ends of the pair lie in the service manager's
//! descriptor store ([`store`]), which gives them back to the next service ([`inherited`]). The
//! manager has to be asked only when a pair is made: a grant costs one `sendmsg`, whatever is held.
//!
//! What is on a file system that may not answer is parked and not open besides ([`far`]).
//!
//! What the descriptors mean stands in one file of the runtime directory ([`state`], [`record`]).
//! Neither a crash between any two steps nor a damaged record may free a disk whose machine lives:
//! what must be true for that is said with each piece.

pub mod contents;
pub mod far;
pub mod handover;
pub mod inherited;
pub mod key;
pub mod line;
mod pair;
pub mod parking;
pub mod record;
mod spelling;
pub mod state;
pub mod store;
pub mod suspect;

pub use contents::Contents;
pub use far::Far;
pub use inherited::Inherited;
pub use key::{Key, Part};
pub use parking::{Parked, Parking};
pub use state::State;
pub use store::Store;

use crate::lock::text::escape::reason;

/// Why something can't be kept, or not be read back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing more can be parked.
    #[error("cannot store more descriptors: {0}")]
    Full(&'static str),
    /// The state file can't be used.
    #[error("cannot {doing} state file {file}: {}", reason(cause))]
    File {
        /// The file.
        file: String,
        /// What failed, in words that follow "cannot".
        doing: &'static str,
        /// The cause.
        cause: std::io::Error,
    },
    /// Something new can't be recorded.
    #[error(
        "cannot write state file {file}: {}; no new locks are granted until this succeeds",
        reason(cause)
    )]
    Unrecorded {
        /// The state file.
        file: String,
        /// The cause.
        cause: std::io::Error,
    },
    /// The state was written by a program that knows more than this one, or less.
    #[error(
        "cannot use state file {file}: it has version {found}, and this program supports versions \
         {oldest} to {known}; nothing was changed; start the program that wrote it"
    )]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u64,
        /// The oldest that can be read.
        oldest: u64,
        /// Ours.
        known: u64,
    },
    /// The system failed at something.
    #[error("cannot {doing}: {}", reason(cause))]
    System {
        /// What failed, in words that follow "cannot".
        doing: &'static str,
        /// The cause.
        cause: std::io::Error,
    },
}

impl Error {
    fn system<E: Into<std::io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self::System { doing, cause: cause.into() }
    }
}

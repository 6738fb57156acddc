//! Floor 2: the service, the only writer of the table.
//!
//! The [`state`] is behind one `std` mutex, which is held for decisions only: never across an
//! await, a system call or a file access. The work that follows from a decision is done outside of
//! it, on worker threads ([`io::executor`]), and the result is entered under the mutex again. The
//! numbered steps are at the head of [`lock::acquire`] and [`lock::release`].
//!
//! Components own their part of the work: the [`Executor`] runs it, the journal ([`persist`])
//! records it, the inspection ([`process`]) asks about processes, and so on. The operations on
//! locks and owners use them together ([`components`]). [`Service`] ([`facade`]) is what the
//! frontends call.
//!
//! The commands of one owner run one after the other, under its *command lock*, so that no command
//! sees an unfinished one of the same owner. Commands of different owners run concurrently.

mod components;
pub mod core;
pub mod facade;
pub mod holder;
pub mod io;
mod lock;
mod lockspace;
mod owner;
mod persist;
pub mod process;
mod recover;
pub mod report;
mod state;
pub mod verify;
mod wait;

pub use crate::service::core::clock::wall_clock_of;
pub use crate::service::core::error::{CancelReason, Error};
pub use crate::service::core::limits::{Exempt, Limits, Visibility};
pub use crate::service::core::settings::Settings;
pub use crate::service::facade::Service;
pub use crate::service::io::executor::Executor;
pub use crate::service::lock::force::OwnerRelease;
pub use crate::service::lock::request::{Disk, LockRequest};
pub use crate::service::owner::anchors::NewAnchor;
pub use crate::service::owner::open::Opening;
pub use crate::service::owner::register::Machine;
pub use crate::service::process::caller::CallerProcess;
pub use crate::service::process::names::ResolveFor;
pub use crate::service::recover::restore::{Restored, restore};
pub use crate::service::state::events::{Batch, Publication, Subscription};
pub use crate::service::state::wait_queue::Presence;
pub use crate::service::wait::{Granted, Wait};

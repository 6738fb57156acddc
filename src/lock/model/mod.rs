//! The data of a lock: plain types that every other room of this floor uses.
//!
//! Start with [`lock`]: a [`Lock`](lock::Lock) in the table, and the resource that it is on
//! ([`Want`](lock::Want)). [`owner`] is the VM that holds it, [`identity`] and [`extent`] identify
//! a resource independent of its name, [`refusal`] names holders, and [`error`] has all errors.

pub mod disk_path;
pub mod error;
pub mod event;
pub mod extent;
pub mod holder_entry;
pub mod host;
pub mod identity;
pub mod input_error;
pub mod lease_name;
pub mod lock;
pub mod lockspace_kind;
pub mod loss_action;
pub mod mode;
pub mod operation;
pub mod owner;
pub mod process;
pub mod process_search;
pub mod recording;
pub mod refusal;

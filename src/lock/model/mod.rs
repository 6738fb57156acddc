//! The data of a lock: plain types that every other room of this floor uses.
//!
//! Start with [`lock`]: a [`Lock`](lock::Lock) in the table, and what was found out about the resource
//! that it is on ([`Want`](lock::Want)). [`owner`] is the VM that holds it, [`identity`] and [`extent`]
//! are what a resource really is, [`refusal`] names holders, and [`error`] is what can go wrong.

pub mod disk_path;
pub mod error;
pub mod event;
pub mod extent;
pub mod host;
pub mod identity;
pub mod lease_name;
pub mod lock;
pub mod loss_action;
pub mod mode;
pub mod operation;
pub mod owner;
pub mod process;
pub mod refusal;

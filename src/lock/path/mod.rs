//! Looks up and opens files whose names other programs chose.
//!
//! [`open`] is the first file to read: it opens a file without side effects. [`lookup`] resolves a
//! name if `openat2(2)` is not available, [`walk`] finds the mounts that a name leads to without a
//! request to any remote one, and [`budget`] bounds both. [`fs_type`] has the types of file systems.
//! [`subprocess`] runs another program with a deadline.

pub(super) mod budget;
pub mod fs_type;
pub(super) mod lookup;
pub mod open;
pub(super) mod subprocess;
pub mod walk;

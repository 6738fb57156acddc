//! Holder records: what a holder writes beside its lock, so that other hosts can name it.
//!
//! [`record`] is the first file to read: which locks get a record, and what is in it. [`format`] is its
//! encoding, [`xattr`] keeps it in an extended attribute of the lock file, and [`in_file`] in the lock
//! file itself, where the file system has no attributes.

pub mod format;
pub(super) mod in_file;
pub mod record;
pub(super) mod xattr;

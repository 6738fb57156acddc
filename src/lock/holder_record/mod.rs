//! Holder records, which a holder writes beside its lock so that other hosts can name it.
//!
//! [`record`] is the first file to read: it selects the locks that get a record, and builds the
//! record. [`mod@format`] is its encoding, [`xattr`] stores it in an extended attribute of the lock
//! file, and [`in_file`] in the lock file itself if the file system has no attributes.

pub mod format;
pub(super) mod in_file;
pub mod record;
pub(super) mod xattr;

//! Queries: methods that return owners, locks, waiting requests and holders, filtered by what the
//! caller may see. [`list`] lists them page by page, [`holders`] looks up the holders of a disk or
//! a lease, and [`resolution`] returns what would be locked for one.

pub(super) mod holders;
pub(super) mod list;
pub(super) mod resolution;

//! Versions 3 to 7 of the state file: lines of JSON, which this program reads and does not write.
//!
//! The start of the service reads the file of the previous one, whatever its version, and writes a
//! new file of the present version ([`super::slot_file`]). Until then it may change stages and modes in
//! the old one ([`super::previous`]).

mod damaged;
pub(super) mod format;
mod reader;

pub(super) use reader::read;

#[cfg(test)]
pub(super) mod tests;

//! Damaged records in the state file, for a service whose descriptors nothing keeps.

mod dump;
mod suspect;

//! The journal: the state file and the stash, which each step of a command updates.

pub(super) mod journal;

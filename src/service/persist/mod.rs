//! The journal: what is written to the state file and to the stash at each step of a command.

pub(super) mod journal;

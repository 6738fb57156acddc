//! Hostile and odd questions, each with virtlockd's answer and ours.

pub(super) mod calls;
pub(super) mod files;
pub(super) mod frames;
pub(super) mod lockspaces;
pub(super) mod owners;

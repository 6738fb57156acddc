//! Persistence of each step: the [`journal`], the [`entries`] that it writes, and anchors with
//! their descriptors ([`anchor_handle`]).

pub(super) mod anchor_handle;
pub(super) mod entries;
pub(super) mod journal;

//! Names the holders of resources: to callers in refusals ([`refusals`]), with their processes
//! ([`processes`], [`lifelines`]), and to other hosts in holder records ([`records`]).

pub mod lifelines;
mod processes;
pub(super) mod records;
pub(super) mod refusals;

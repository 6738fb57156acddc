//! Fields that only older versions of the state file have.
//!
//! A field that older versions lack has `#[serde(default)]` at its definition instead.
//! [`format`](crate::keep::state_file) lists the versions.

use serde::{Deserialize, Serialize};

use super::value::EncodedIdentity;
use crate::lock::model::extent::Extent;

/// The field `below` of a lock in versions 4 and 5: the files and devices that a disk lies on,
/// without the part of them that it occupies. This program reads it and never writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Below(Vec<EncodedIdentity>);

impl Below {
    /// Returns the extents, each of them partial: the disk occupies an unknown part.
    pub(super) fn into_extents(self) -> impl Iterator<Item = Extent> {
        self.0.into_iter().map(|lower| Extent::partial(lower.into()))
    }
}

//! Commands of one file each.

pub(crate) mod lock;
pub(crate) mod lockspace;
pub(crate) mod reexec;
pub(crate) mod release;
pub(crate) mod reload;
pub(crate) mod resolve;
pub(crate) mod resume;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod suspend;
pub(crate) mod unlock;
pub(crate) mod who;

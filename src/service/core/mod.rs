//! The state behind the mutex, and what every other room of this floor uses: [`state`], settings,
//! limits, errors and queries.

pub(super) mod error;
pub mod limits;
pub mod list;
pub(super) mod query;
pub(super) mod settings;
pub(super) mod state;

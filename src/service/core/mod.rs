//! The core of the service: the state behind the mutex ([`state`]), settings, limits, errors and
//! queries, which all other rooms use.

pub(super) mod error;
pub mod limits;
pub mod list;
pub(super) mod query;
pub(super) mod settings;
pub(super) mod state;

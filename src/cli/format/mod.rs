//! Output formats: pure text, without I/O on the service or the terminal.
//!
//! [`row`] reads the dictionaries in replies of the service. [`table`] and [`json`] format lists, [`clock`]
//! and [`duration`] times, [`wording`] a line for a terminal of limited width.

pub(crate) mod clock;
pub(crate) mod colour;
pub(crate) mod duration;
pub(crate) mod json;
pub(crate) mod property_key;
pub(crate) mod row;
pub(crate) mod table;
pub(crate) mod width;
pub(crate) mod wording;

//! Formats of the output: text and JSON.
//!
//! [`row`] reads the dictionaries in replies of the service. [`table`] and [`json`] format lists,
//! [`holder`] the holder of a disk, [`clock`] and [`duration`] times, and [`wording`] a line of
//! limited width.

pub(crate) mod clock;
pub(crate) mod colour;
pub(crate) mod duration;
pub(crate) mod holder;
pub(crate) mod json;
pub(crate) mod property_key;
pub(crate) mod row;
pub(crate) mod table;
pub(crate) mod tty;
pub(crate) mod width;
pub(crate) mod wording;

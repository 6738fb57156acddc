//! Whatever is asked wrongly gets its own clear error, changes nothing, and harms nobody.

mod arguments;
mod descriptors;
mod limits;
mod names;
mod owners;
mod start;

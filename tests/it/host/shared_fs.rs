//! Two hosts, a service on each, and a file system that they share: what one has locked, the other
//! is refused, and gets as soon as it is free.

mod attributes;
mod conflicts;
mod holder_names;
mod pair;
mod presence;
mod properties;
mod selftest;
mod waiting;

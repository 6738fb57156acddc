//! Two hosts, a service on each, and a file system that they share: what one has locked, the other
//! is refused, and gets as soon as it is free.

mod attributes;
mod between;
mod harness;
mod pair;
mod seen;
mod told;
mod verdict;
mod waiting;

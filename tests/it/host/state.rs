//! What is written down may be damaged, another version's, or not be writable at all: no disk of a
//! machine that lives is ever free for that.

mod damage;
mod full_store;
mod no_space;
mod scenario;
mod versions;

/// Where the records are, on a host.
const STATE: &str = "/run/vmlockd/state";

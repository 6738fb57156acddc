//! The state file may be damaged, of another version, or not writable: no disk of a living VM is
//! ever free because of that.

mod damage;
mod full_store;
mod no_space;
mod scenario;
mod versions;

/// Where the records are, on a host.
const STATE: &str = "/run/vmlockd/state";

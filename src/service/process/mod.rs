//! Processes, as an inspector describes them: whose they are ([`identity`]), which process a number
//! means ([`pids`]) and where a name leads for a caller in another namespace ([`views`]).

pub mod identity;
pub mod naming;
pub(super) mod pids;
pub(super) mod turns;
pub(super) mod views;

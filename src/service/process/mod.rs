//! Processes, as an inspector reports them: the user of a process ([`identity`]), the process that
//! a number means ([`pids`]), the processes that use a disk ([`naming`]), and the file that a name
//! leads to for a caller in another namespace ([`views`]).

pub mod identity;
pub mod naming;
pub(super) mod pids;
pub(super) mod turns;
pub(super) mod views;

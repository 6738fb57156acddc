//! The terminal and the standard streams of this process.
//!
//! [`output`] writes results to standard output and messages to standard error. [`status_line`]
//! shows the state of a wait, [`slow_reply`] reports that a reply is late, [`polkit_agent`] lets
//! the user enter a password, and [`signals`] catches Ctrl-C and other signals.

pub(crate) mod output;
pub(crate) mod polkit_agent;
pub(crate) mod signals;
pub(crate) mod slow_reply;
pub(crate) mod status_line;

//! Descriptors that callers passed: what they are ([`passed`]), who owns them here ([`received`]), and
//! the threads that close them, since a close can block ([`closer`]).

pub mod closer;
pub mod passed;
pub mod received;

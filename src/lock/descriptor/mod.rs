//! Descriptors that callers passed: their types ([`passed`]), their owner in this process
//! ([`received`]), and the threads that close them, since a close can block ([`closer`]).

pub mod closer;
pub mod passed;
pub mod received;

//! Text that comes from elsewhere, made fit for messages: escaping ([`escape`]), ages ([`ago`]), and
//! what an owner says that its locks are for ([`why`]).

pub mod ago;
pub mod escape;
pub mod why;

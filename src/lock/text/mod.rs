//! Preparation of foreign text for messages: escaping ([`escape`]), ages ([`ago`]), and the reasons
//! of owners for their locks ([`why`]).

pub mod ago;
pub mod escape;
pub mod why;

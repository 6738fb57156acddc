//! Preparation of foreign text for messages: escaping ([`escape`]), ages ([`ago`]), the reasons of
//! owners for their locks ([`why`]), and descriptions of error numbers ([`errno`]).

pub mod ago;
pub mod errno;
pub mod escape;
pub mod why;

//! The arguments of every procedure.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../check.rs"]
#[allow(dead_code)]
mod check;

fuzz_target!(|input: &[u8]| check::payload(input));

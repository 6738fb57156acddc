//! virtlockd's protocol: virtlockd and the service, which replaces it, give the same answers.
//!
//! The [`cases`] contain what clients may rely on. They are valid for virtlockd, which is tested
//! too.

mod access;
mod case;
mod cases;
mod checker;
mod conformance;
mod environment;
mod forced_release;
mod guest;
pub(crate) mod host;
mod idle;
mod interop;
mod many_clients;
mod reacquired;
mod reserved;
mod socket_option;
mod timeout;
mod vm_lifetime;

use std::path::Path;

use crate::fixture::Virtlockd;
use crate::nspawn::skip;

/// A virtlockd that has its files in this directory, which is made; none if it is not installed.
pub(crate) fn virtlockd(dir: &Path) -> Option<Virtlockd> {
    let Some(program) = Virtlockd::program() else {
        return skip("virtlockd is not installed here");
    };
    Some(Virtlockd::start(&program, dir, ""))
}

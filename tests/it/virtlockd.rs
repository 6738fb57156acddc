//! virtlockd's protocol: the same answers from virtlockd itself and from the service in its place.
//!
//! What a client may depend on is in the [`rows`], which are true of virtlockd: that is tested too.

mod access;
mod activation;
mod breaking;
mod by_hand;
mod crowd;
mod guest;
pub(crate) mod hang;
mod idle;
mod interop;
mod judge;
mod lives;
mod patience;
mod place;
mod reacquired;
mod reserved;
mod row;
mod rows;
pub(crate) mod survive;
mod table;

use std::path::Path;

use crate::host::skip;
use crate::house::Virtlockd;

/// A virtlockd that has its files in this directory, which is made; none if it is not installed.
pub(crate) fn virtlockd(dir: &Path) -> Option<Virtlockd> {
    let Some(program) = Virtlockd::program() else {
        return skip("virtlockd is not installed here");
    };
    Some(Virtlockd::start(&program, dir, ""))
}

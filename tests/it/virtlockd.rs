//! virtlockd's protocol: the same answers from virtlockd itself and from the service in its place.

use std::path::Path;

use crate::host::skip;
use crate::house::Virtlockd;

/// A virtlockd that has its files in this directory; none if it is not installed.
fn virtlockd(dir: &Path) -> Option<Virtlockd> {
    let Some(program) = Virtlockd::program() else {
        return skip("virtlockd is not installed here");
    };
    Some(Virtlockd::start(&program, dir, ""))
}

#[test]
fn smoke() {
    use crate::house::rpc::{Owner, SHARED};
    let dir = tempfile::tempdir().unwrap();
    let Some(v) = virtlockd(&dir.path().join("v")) else { return };
    let mut r = v.connect();
    r.ping().granted();
    r.register(&Owner::new("web1", 1, 1)).granted();
    println!("{:?}", r.acquire("", "/nonexistent", SHARED).refused());
    assert!(r.is_silent());
}

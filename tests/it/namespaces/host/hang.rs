//! A name whose lookup does not end in the mount namespace of its caller.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::assert_foreign;
use super::super::scenario::Scenario;
use crate::dbus_client::{TestVm, exclusive};
use crate::nspawn::skip;

/// Serves what is in its second argument in the place of the first, by a process whose number is
/// written to the third, for the command that follows.
const SERVE: &str = r#"
    bindfs -f -o nonempty,attr_timeout=0,entry_timeout=0 "$2" "$1" & echo $! >"$3"
    until mountpoint -q "$1"; do sleep 0.01; done
    shift 3
    exec "$@"
"#;

#[tokio::test]
async fn a_name_whose_lookup_hangs_is_refused_and_delays_no_other_user() {
    if !Path::new("/dev/fuse").exists() {
        return skip("there is no /dev/fuse here").unwrap_or_default();
    }
    let scenario = Scenario::new().await;
    let [pool, other, number] = ["pool", "other", "server"].map(|name| scenario.path(name));
    let text = |path: &Path| path.display().to_string();
    let words = ["unshare", "--mount", "--", "sh", "-euc", SERVE, "sh"].map(str::to_owned);
    let behind = [&words[..], &[text(&pool), text(&other), text(&number)]].concat();
    let (_process, bus) = scenario.bus(&behind).await;
    let server = std::fs::read_to_string(number).unwrap().trim().parse().unwrap();
    let server = Server(Pid::from_raw(server));
    let inner = TestVm::open(&bus, "inner").await;
    // The file system is another one, whatever it shows.
    let refused = inner.acquire(&[exclusive(&scenario.disk())]).await.unwrap_err();
    assert_foreign(&refused, "leads to another file");
    kill(server.0, Signal::SIGSTOP).unwrap();
    for _ in 0..2 {
        let refused = inner.acquire(&[exclusive(&scenario.disk())]).await.unwrap_err();
        assert_foreign(&refused, "cannot be compared");
    }
    let outer = TestVm::open(&scenario.fixture.connection().await, "outer").await;
    outer.acquire(&[exclusive(&scenario.disk())]).await.unwrap();
}

/// A process that is killed at the end, though it may be stopped.
struct Server(Pid);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

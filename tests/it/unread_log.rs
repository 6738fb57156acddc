//! A log that nothing reads: it must not block the service.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc::O_NONBLOCK;

use crate::dbus_client::TestVm;
use crate::fixture::rpc::{Owner, Rpc};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Daemon, Fixture, polkit, within};

/// The messages about one owner, opened and ended, have more bytes than this.
const OF_OWNER: usize = 400;
/// The size of a pipe.
const PIPE: usize = 64 << 10;

#[tokio::test]
async fn standard_error_that_nothing_reads_blocks_neither_bus_nor_virtlockd_socket() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).without_daemon().start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let pipe = fixture.dir().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Opened for reading as well, so that the service finds a reader.
    let reader = OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(&pipe);
    let socket = fixture.dir().join("virtlockd-sock");
    let mut launch = fixture.launch();
    let redirected = ["sh", "-c", "pipe=$1; shift; exec \"$@\" 2>\"$pipe\"", "sh"];
    launch.inside = redirected.map(str::to_owned).into();
    launch.inside.push(pipe.display().to_string());
    launch.args.extend(["--virtlockd-socket".to_owned(), socket.display().to_string()]);
    let daemon = Daemon::start(fixture.bus(), launch).await;
    let (bus, name) = (fixture.connection().await, "x".repeat(100));
    for n in 0..3 * PIPE / OF_OWNER {
        let opened = within("an answer", TestVm::open(&bus, &name));
        drop(opened.await);
        if n == PIPE / OF_OWNER {
            // An ordinary user is served as well.
            let bus = fixture.connection_as(NOBODY).await;
            within("an answer", TestVm::open(&bus, "of-a-user")).await;
        }
    }
    let (disk, pid) = (fixture.raw_of(0, "disk"), std::process::id());
    let client = tokio::task::spawn_blocking(move || {
        let mut rpc = Rpc::connect(&socket).unwrap();
        rpc.register(&Owner::new("web1", 1, pid)).granted();
        rpc.acquire("", disk.to_str().unwrap(), 0).granted();
    });
    within("an answer", client).await.unwrap();
    // The messages are there once they are read, the first ones at once.
    let mut text = vec![0; PIPE];
    let read = std::io::Read::read(&mut reader.unwrap(), &mut text).unwrap();
    assert!(String::from_utf8_lossy(&text[..read]).contains(&name), "nothing was logged");
    within("the end of the service", daemon.terminate()).await;
}

//! `reexec`: the service is replaced, or goes on as it is, and which of the two is told.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::{Tool, fails, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::user::NOBODY;
use crate::fixture::{
    Answer, Daemon, Fixture, ForeignHolder, Launch, LockType, TestMount, polkit, program,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A service of before there was `Reexecute`.
struct Ancestor(&'static str);

#[zbus::interface(name = "org.vmlockd1.Manager")]
impl Ancestor {
    #[zbus(property)]
    fn version(&self) -> &'static str {
        self.0
    }
}

#[tokio::test]
async fn the_service_is_replaced_and_locks_stay() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let machine = TestVm::open(&fixture.connection().await, "web1").await;
    machine.acquire(&[exclusive(&image)]).await.unwrap();
    let before = super::json(&fixture, &["list"]).await;
    let pid = fixture.daemon().pid();
    let said = vmlockctl(&fixture, &["reexec"]).await.ok();
    let line = format!("vmlockd {VERSION} was replaced by vmlockd {VERSION}, in process {pid}\n");
    assert_eq!(said, line);
    ForeignHolder::try_once(&image, LockType::Ofd, true).unwrap_err();
    let told = super::json(&fixture, &["reexec"]).await;
    assert_eq!(
        (&told["before"], &told["after"], &told["pid"]),
        (&VERSION.into(), &VERSION.into(), &pid.into())
    );
    let after = super::json(&fixture, &["list"]).await;
    assert_eq!(after[0]["generation"], before[0]["generation"]);
    ForeignHolder::try_once(&image, LockType::Ofd, true).unwrap_err();
}

/// Starts the service from a copy of the program, which a test may replace; returns it and the copy.
pub(super) async fn start_copy(fixture: &Fixture) -> (Tool, PathBuf) {
    let installed = fixture.dir().join("vmlockd");
    fs::copy(program("vmlockd"), &installed).unwrap();
    let mut watch = fixture.bus().watch().await;
    let mut command = fixture.command(str(&installed));
    command.args(fixture.launch().words());
    let service = Tool::start(fixture, command);
    watch.owned_by(service.process.pid()).await;
    (service, installed)
}

#[tokio::test]
async fn the_error_of_the_installed_program_is_printed() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let (service, installed) = start_copy(&fixture).await;

    let new = fixture.dir().join("new");
    fs::write(&new, "#!/bin/sh\necho 'not on a Monday' >&2\nexit 1\n").unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &installed).unwrap();
    let said = fails(&fixture, 1, &["reexec"]).await;
    assert!(said.contains("cannot take over: not on a Monday"), "{said}");
    // It goes on.
    vmlockctl(&fixture, &["list"]).await.ok();
    assert!(service.process.lives());
}

#[tokio::test]
async fn a_replacement_that_fails_is_reported() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let run = fixture.dir().join("small");
    let _mounted = TestMount::small(&run);
    fs::set_permissions(&run, Permissions::from_mode(0o700)).unwrap();
    let launch = Launch { runtime_dir: run.clone(), ..fixture.launch() };
    let daemon = Daemon::start(fixture.bus(), launch).await;
    // The new program would get the state in a file, for which there is no room.
    let mut filler = File::create(run.join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    let said = fails(&fixture, 1, &["reexec"]).await;
    let line =
        format!("vmlockd {VERSION} was not replaced and still runs as process {}", daemon.pid());
    assert!(said.contains(&line), "{said}");
    drop(daemon);
}

#[tokio::test]
async fn without_a_bus_the_process_is_signalled() {
    let fixture = Fixture::builder().start().await;
    let run = fixture.launch().runtime_dir;
    fixture.bus().stop();
    let said = fails(&fixture, 69, &["reexec", "--runtime-dir", str(&run)]).await;
    assert!(said.contains("cannot connect to the system bus"), "{said}");
    assert!(said.contains(&format!("'kill -USR1 {}'", fixture.daemon().pid())), "{said}");

    let fixture = Fixture::builder().without_daemon().start().await;
    let run = fixture.launch().runtime_dir;
    let said = fails(&fixture, 69, &["reexec", "--runtime-dir", str(&run)]).await;
    assert!(
        said.contains("vmlockd is not running") && said.contains("no service runs in "),
        "{said}"
    );
}

#[tokio::test]
async fn a_service_without_reexec_is_reported() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let connection = fixture.connection().await;
    connection.object_server().at("/org/vmlockd1", Ancestor("0.0.1")).await.unwrap();
    connection.request_name("org.vmlockd1").await.unwrap();
    let run = fixture.launch().runtime_dir;
    let said = fails(&fixture, 1, &["reexec", "--runtime-dir", str(&run)]).await;
    assert!(said.contains("Reexecute") && said.contains("no service runs in "), "{said}");
}

#[tokio::test]
async fn reexec_needs_authorization() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Deny);
    let ran = fixture.run_as(NOBODY, "vmlockctl", &["--system", "reexec"]).await;
    assert_eq!(ran.status.code(), Some(77), "{ran:#?}");
}

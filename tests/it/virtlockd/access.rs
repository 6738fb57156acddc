//! Access to the socket alone does not suffice for being served.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::fixture::Fixture;
use crate::fixture::rpc::{Answer, Rpc};
use crate::fixture::user::{DAEMON, NOBODY, in_thread};

use super::checker::fixture;

/// Opens a socket to all, as a careless administrator could.
fn open_to_all(socket: &Path) {
    fs::set_permissions(socket, Permissions::from_mode(0o777)).unwrap();
}

async fn asked_by(uid: u32, socket: PathBuf) -> Answer {
    in_thread(uid, move || Rpc::connect(&socket).unwrap().ping()).await
}

#[tokio::test]
async fn virtlockd_serves_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    open_to_all(dir.path());
    let Some(virtlockd) = super::virtlockd(&dir.path().join("virtlockd")) else { return };
    open_to_all(virtlockd.socket());
    assert_eq!(asked_by(NOBODY, virtlockd.socket().to_owned()).await, Answer::Closed);
    virtlockd.connect().ping().granted();
}

#[tokio::test]
async fn the_system_service_serves_root_alone() {
    let fixture = fixture().await;
    let socket = fixture.dir().join("virtlockd-sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "mode {mode:o}");
    open_to_all(&socket);
    for uid in [NOBODY, DAEMON] {
        assert_eq!(asked_by(uid, socket.clone()).await, Answer::Closed);
    }
    Rpc::connect(&socket).unwrap().ping().granted();
}

#[tokio::test]
async fn a_users_service_serves_its_user_only() {
    let fixture = Fixture::builder()
        .session_of(NOBODY)
        .config("virtlockd_socket = \"@DIR@/run/virtlockd-sock\"\n")
        .start()
        .await;
    let socket = fixture.dir().join("run/virtlockd-sock");
    fs::set_permissions(fixture.dir().join("run"), Permissions::from_mode(0o755)).unwrap();
    open_to_all(&socket);
    assert_eq!(asked_by(DAEMON, socket.clone()).await, Answer::Closed);
    asked_by(NOBODY, socket).await.granted();
}

//! What a program tells its service manager, where the test is the manager.

use std::{fs, os::unix::fs::chown, path::Path, process::Command};

use tokio::net::UnixDatagram;

use super::{user::Account, within};

/// Where the news come in (`sd_notify(3)`).
pub(crate) struct News(UnixDatagram);

impl News {
    /// What the program that this command starts will tell, by a socket in this directory.
    pub(crate) fn of(command: &mut Command, dir: &Path, teller: u32) -> News {
        let path = dir.join("notify");
        // An earlier one's.
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket in our directory");
        let Account { uid, gid } = Account::of(teller);
        chown(&path, Some(uid), Some(gid)).expect("root can give files away");
        command.env("NOTIFY_SOCKET", path);
        News(socket)
    }

    /// Waits until it says this, such as `READY=1`.
    pub(crate) async fn say(&self, wanted: &str) {
        let heard = async {
            let mut said = [0; 4096];
            loop {
                let length = self.0.recv(&mut said).await.expect("a bound socket receives");
                if said[..length].split(|byte| *byte == b'\n').any(|it| it == wanted.as_bytes()) {
                    return;
                }
            }
        };
        within(wanted, heard).await;
    }
}

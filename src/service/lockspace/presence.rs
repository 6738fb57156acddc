//! Host presence: in each shared lockspace a process keeps this host's presence file locked for as
//! long as the service runs, so that other hosts see it.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::lock::lockspace::Lockspaces;
use crate::lock::presence::keeper::{KEPT, TAKEN};
use crate::lock::presence::{Announcement, FOLDER};
use crate::lock::text::escape::{shown, shown_path, spelt_path};
use crate::service::core::settings::Settings;
use crate::sync;

/// The maximum size of one message from the process.
const TALK: usize = 4096;

/// The presence of this host, by lockspace.
#[derive(Debug, Default)]
pub(super) struct Presences(Mutex<HashMap<PathBuf, PresenceFile>>);

#[derive(Debug)]
struct PresenceFile {
    /// The device and inode of the directory.
    node: (u64, u64),
    /// The content of the presence file.
    announcement: String,
    /// Killed on drop; a process that hangs in the kernel dies as soon as its file system responds.
    _process: Child,
    /// The process's input, which ends with the service at the latest.
    _talk: Pair,
}

impl Presences {
    /// Announces this host in a lockspace. Locks do not depend on it. Call it on a worker thread.
    pub(super) fn announce(&self, settings: &Settings, lockspace: &Path, node: (u64, u64)) {
        let Some(host) = settings.lockspaces.host.clone() else { return };
        let announcement = Announcement::new(host.name(), agreed(settings));
        let Ok(announcement) = serde_json::to_string(&announcement) else { return };
        let mut kept = sync::lock(&self.0);
        if kept
            .get(lockspace)
            .is_some_and(|kept| kept.node == node && kept.announcement == announcement)
        {
            return;
        }
        // Ends the previous process before the new one starts.
        kept.remove(lockspace);
        match keep(lockspace, host.id(), &announcement) {
            Ok((process, talk, says)) => {
                tokio::spawn(log_messages(
                    says,
                    shown_path(&lockspace.join(FOLDER)),
                    host.id().to_owned(),
                ));
                let there = PresenceFile { node, announcement, _process: process, _talk: talk };
                kept.insert(lockspace.to_owned(), there);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot announce this host in {}", shown_path(lockspace));
            }
        }
    }

    /// Ends the presence of this host in all other lockspaces.
    pub(super) fn retain(&self, lockspaces: &[PathBuf]) {
        sync::lock(&self.0).retain(|path, _| lockspaces.contains(path));
    }
}

/// Returns the settings that all hosts must agree on, by their names in the configuration.
fn agreed(settings: &Settings) -> BTreeMap<String, String> {
    let Lockspaces { file, lvm, scsi, .. } = &settings.lockspaces;
    let directories =
        [("file_lockspace_dir", file), ("lvm_lockspace_dir", lvm), ("scsi_lockspace_dir", scsi)];
    let directories = directories.into_iter().map(|(key, directory)| {
        let path = directory.as_ref().map(|directory| spelt_path(directory.path()));
        (key.to_owned(), path.unwrap_or_default())
    });
    let locked = (!settings.only_record_disks).to_string();
    directories.chain([("auto_disk_leases".to_owned(), locked)]).collect()
}

fn keep(lockspace: &Path, id: &str, told: &str) -> io::Result<(Child, Pair, UnixStream)> {
    // The running binary, whatever is installed by now: it is the one that accepts this argument.
    let mut keeper = Command::new("/proc/self/exe");
    keeper.arg("--keep-host").arg(lockspace).current_dir("/").kill_on_drop(true);
    let ((mut talk, hears), (says, speaks)) = (Pair::pair()?, Pair::pair()?);
    keeper.stdin(OwnedFd::from(hears)).stdout(OwnedFd::from(speaks)).stderr(Stdio::null());
    // The socket is empty, so the text fits into its buffer; otherwise the write fails.
    talk.set_nonblocking(true)?;
    talk.write_all(format!("{id}\n{told}\n").as_bytes())?;
    says.set_nonblocking(true)?;
    Ok((keeper.spawn()?, talk, UnixStream::from_std(says)?))
}

/// Logs the messages of the process until it ends.
async fn log_messages(says: UnixStream, place: String, id: String) {
    let mut buffer = [0; TALK];
    while says.readable().await.is_ok() {
        let count = match says.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        for line in String::from_utf8_lossy(&buffer[..count]).lines() {
            match line {
                KEPT => tracing::debug!("announced this host in {place}"),
                TAKEN => tracing::warn!(
                    "another host uses the host id {id} in {place}, or another vmlockd runs on this \
                     host: set 'host_id' to different values"
                ),
                error => tracing::warn!("cannot announce this host in {place}: {}", shown(error)),
            }
        }
    }
}

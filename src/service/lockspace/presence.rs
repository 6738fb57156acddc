//! This host, as others see it in the lockspaces that they share: a process keeps its file locked in
//! each of them, for as long as the service runs.

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
use crate::lock::presence::{FOLDER, Told};
use crate::lock::text::escape::{shown, shown_path, spelt_path};
use crate::service::io::mount_gate::locked;
use crate::service::{Service, Settings};

/// The longest that a process says at once.
const TALK: usize = 4096;

/// Where this host is seen.
#[derive(Debug, Default)]
pub(in crate::service) struct Sightings(Mutex<HashMap<PathBuf, Kept>>);

#[derive(Debug)]
struct Kept {
    /// In which directory: device and inode.
    node: (u64, u64),
    /// What others are told.
    told: String,
    /// Killed when nobody wants it any more; one that hangs dies as soon as it does not.
    _process: Child,
    /// Its input, which ends with the service at the latest.
    _talk: Pair,
}

impl Service {
    /// Has this host be seen in a lockspace. Nothing depends on it. For a storage thread.
    pub(in crate::service) fn appear(&self, lockspace: &Path, node: (u64, u64)) {
        let settings = self.settings();
        let Some(host) = settings.lockspaces.host.clone() else { return };
        let told = Told::new(host.name(), agreed(&settings));
        let Ok(told) = serde_json::to_string(&told) else { return };
        let mut kept = locked(&self.sightings().0);
        if kept.get(lockspace).is_some_and(|kept| kept.node == node && kept.told == told) {
            return;
        }
        // The one before it goes first.
        kept.remove(lockspace);
        match keep(lockspace, host.id(), &told) {
            Ok((process, talk, says)) => {
                tokio::spawn(tell(says, shown_path(&lockspace.join(FOLDER)), host.id().to_owned()));
                let there = Kept { node, told, _process: process, _talk: talk };
                kept.insert(lockspace.to_owned(), there);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot announce this host in {}", shown_path(lockspace));
            }
        }
    }

    /// Has it be seen in these at most.
    pub(in crate::service) fn disappear_but(&self, lockspaces: &[PathBuf]) {
        locked(&self.sightings().0).retain(|path, _| lockspaces.contains(path));
    }
}

/// What all hosts have to agree on, by the names of the configuration.
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
    // Whatever is installed by now, this is the program that knows the argument.
    let mut keeper = Command::new("/proc/self/exe");
    keeper.arg("--keep-host").arg(lockspace).current_dir("/").kill_on_drop(true);
    let ((mut talk, hears), (says, speaks)) = (Pair::pair()?, Pair::pair()?);
    keeper.stdin(OwnedFd::from(hears)).stdout(OwnedFd::from(speaks)).stderr(Stdio::null());
    // It has room in the socket, in which there is nothing else, or it is not said at all.
    talk.set_nonblocking(true)?;
    talk.write_all(format!("{id}\n{told}\n").as_bytes())?;
    says.set_nonblocking(true)?;
    Ok((keeper.spawn()?, talk, UnixStream::from_std(says)?))
}

/// Logs what the process says, until it ends.
async fn tell(says: UnixStream, place: String, id: String) {
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

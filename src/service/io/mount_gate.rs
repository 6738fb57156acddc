//! Admission control for remote mounts: a hung server delays only requests for its own mount, each
//! by at most [`PATIENCE`].
//!
//! Each such mount has a gate with a fixed number of permits. Before each request, a
//! [probe process](crate::service::io::mount_probe) of the gate checks that the file system
//! responds. While one probe has been unanswered for too long, every request for the mount is
//! refused, without the cost of a thread. A file system that hangs between the probe and the
//! request occupies the thread of that request, but no more threads than the gate has permits.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::lock::descriptor::passed::OpenFile;
use crate::lock::mount::{Mount, Mounts};
use crate::lock::path::open::mount_number;
use crate::lock::path::walk::remote_mount;
use crate::lock::request::Asked;
use crate::lock::text::escape::shown_path;
use crate::service::core::error::{Error, UnresponsiveMount};
use crate::service::io::mount_probe::MountProbe;
use crate::sync;

/// How long a file system may take to respond, and how long a request waits for a permit.
pub(in crate::service) const PATIENCE: Duration = Duration::from_secs(5);
/// The number of permits of one mount.
const ABREAST: usize = 8;

/// Whether any of these leads to a file system that another host or process serves. Call it on a
/// worker thread.
pub(in crate::service) fn is_remote(asked: &[Asked<'_>]) -> bool {
    !MountGates::remote(asked).is_empty()
}

/// The gates of all remote mounts.
#[derive(Debug, Default)]
pub(in crate::service) struct MountGates {
    /// By device and mount point.
    gates: Mutex<HashMap<(u64, PathBuf), Arc<MountGate>>>,
    /// Notified when an unresponsive mount responds again.
    responds_again: Arc<Notify>,
}

impl MountGates {
    /// Returns the remote mounts that these lead to. A lookup in a local file system may hang, so
    /// the request must be admitted there ([`crate::service::io::local_gate`]); no remote file
    /// system is accessed.
    pub(in crate::service) fn remote(asked: &[Asked<'_>]) -> Vec<Mount> {
        let mounts = mounts();
        if !mounts.iter().any(Mount::is_remote) {
            return Vec::new();
        }
        let mount = |asked: &Asked<'_>| match asked {
            Asked::Path(path) => remote_mount(&mounts, path).cloned(),
            Asked::Lookup(path, _) => remote_mount(&mounts, path).cloned(),
            Asked::File(fd) => mount_of(&mounts, *fd).filter(|mount| mount.is_remote()).cloned(),
        };
        let mut remote: Vec<Mount> = asked.iter().filter_map(mount).collect();
        // A request may need several permits: the same order for all requests excludes a deadlock.
        remote.sort_by_key(|mount| mount.id);
        remote.dedup_by_key(|mount| mount.id);
        remote
    }

    /// Acquires a permit of each of these mounts.
    ///
    /// # Errors
    ///
    /// [`Error::UnresponsiveMount`].
    pub(in crate::service) async fn admit(
        &self,
        remote: &[Mount],
    ) -> Result<Vec<OwnedSemaphorePermit>, Error> {
        let mut permits = Vec::with_capacity(remote.len());
        for mount in remote {
            permits.push(self.gate(mount).admit().await?);
        }
        Ok(permits)
    }

    /// Marks these mounts as unresponsive until they respond again: a request to them has had no
    /// answer in time.
    pub(in crate::service) fn mark_unresponsive(&self, remote: &[Mount]) {
        for mount in remote {
            let gate = self.gate(mount);
            let answers = sync::lock(&gate.probe_result).answers;
            let asked = Instant::now().checked_sub(PATIENCE).unwrap_or_else(Instant::now);
            gate.mark_unresponsive_since(answers, asked);
            tokio::spawn(gate.send_probe());
        }
    }

    /// Returns the notification that an unresponsive mount responds again.
    pub(in crate::service) fn responds_again(&self) -> &Notify {
        &self.responds_again
    }

    /// Returns the mounts that do not respond.
    pub(in crate::service) fn unresponsive(&self) -> Vec<UnresponsiveMount> {
        let gates: Vec<Arc<MountGate>> = sync::lock(&self.gates).values().cloned().collect();
        gates.iter().filter_map(|gate| gate.unresponsive()).collect()
    }

    fn gate(&self, mount: &Mount) -> Arc<MountGate> {
        let mut gates = sync::lock(&self.gates);
        let key = (mount.dev, mount.point.clone());
        if !gates.contains_key(&key) {
            // Removes the gates of mounts that are gone and unused. It is done here because a new
            // gate is rare, so the cost hardly matters.
            if let Ok(mounts) = Mounts::current() {
                let there = |dev, point: &Path| {
                    mounts.iter().any(|mount| mount.dev == dev && mount.point == point)
                };
                gates
                    .retain(|(dev, point), gate| Arc::strong_count(gate) > 1 || there(*dev, point));
            }
        }
        Arc::clone(
            gates.entry(key).or_insert_with(|| {
                Arc::new(MountGate::new(mount.point.clone(), &self.responds_again))
            }),
        )
    }
}

/// Returns the mount table; an empty one if it cannot be read, which is logged.
pub(super) fn mounts() -> Arc<Mounts> {
    Mounts::current().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot read the list of mounts");
        Arc::default()
    })
}

/// Returns the mount that an open file is on, or a mount in this mount namespace of the same file
/// system. The kernel answers this without access to the file system.
pub(super) fn mount_of<'m>(mounts: &'m Mounts, fd: BorrowedFd<'_>) -> Option<&'m Mount> {
    let numbered = mount_number(fd).ok().and_then(|id| mounts.numbered(id));
    // The kernel is older than 5.8, or the mount is in another namespace.
    numbered.or_else(|| OpenFile::at(fd).ok()?.mount(mounts))
}

/// The gate of one remote mount.
#[derive(Debug)]
struct MountGate {
    point: PathBuf,
    permits: Arc<Semaphore>,
    probe: Arc<tokio::sync::Mutex<Option<MountProbe>>>,
    probe_result: Mutex<ProbeResult>,
    responds_again: Arc<Notify>,
}

/// The result of the probes so far.
#[derive(Debug, Default)]
struct ProbeResult {
    /// How many probes were answered.
    answers: u64,
    /// Since when the mount has not responded.
    unresponsive: Option<Instant>,
}

impl MountGate {
    fn new(point: PathBuf, responds_again: &Arc<Notify>) -> Self {
        Self {
            responds_again: Arc::clone(responds_again),
            point,
            permits: Arc::new(Semaphore::new(ABREAST)),
            probe: Arc::default(),
            probe_result: Mutex::default(),
        }
    }

    async fn admit(self: Arc<Self>) -> Result<OwnedSemaphorePermit, Error> {
        if let Some(unresponsive) = self.unresponsive() {
            return Err(Error::UnresponsiveMount(unresponsive));
        }
        let asked = Instant::now();
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = match timeout(PATIENCE, permit).await {
            Ok(Ok(permit)) => permit,
            // The semaphore is never closed.
            Ok(Err(_)) => return Err(Error::Abandoned),
            Err(_) => {
                let mount = shown_path(&self.point);
                return Err(Error::UnresponsiveMount(UnresponsiveMount {
                    mount,
                    time: asked.elapsed(),
                }));
            }
        };
        let answers = sync::lock(&self.probe_result).answers;
        // In a task of its own: a probe that was sent must be read to its answer even if the caller
        // stops waiting, and its answer opens the gate again for every caller.
        match timeout(PATIENCE, tokio::spawn(Arc::clone(&self).send_probe())).await {
            Ok(Ok(())) => Ok(permit),
            Ok(Err(_)) => Err(Error::Abandoned),
            Err(_) => Err(Error::UnresponsiveMount(self.mark_unresponsive_since(answers, asked))),
        }
    }

    /// Returns once the file system has answered a probe.
    async fn send_probe(self: Arc<Self>) {
        let mut probe = Arc::clone(&self.probe).lock_owned().await;
        // A probe process that has ended is replaced once. If no process can be started, the gate
        // opens: only the request itself can find out then.
        for _ in 0..2 {
            let process = match probe.take() {
                Some(process) => Ok(process),
                None => MountProbe::post(),
            };
            let answered = match process {
                Ok(mut process) => {
                    let answered = process.ask(&self.point).await;
                    *probe = answered.is_ok().then_some(process);
                    answered
                }
                Err(error) => Err(error),
            };
            match answered {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot probe {}", shown_path(&self.point));
                }
            }
        }
        self.responds_again();
    }

    fn responds_again(&self) {
        let before = {
            let mut probe_result = sync::lock(&self.probe_result);
            probe_result.answers += 1;
            probe_result.unresponsive.take()
        };
        if let Some(since) = before {
            let time = since.elapsed().as_secs();
            tracing::info!("mount {} is responding again, after {time} s", shown_path(&self.point));
            self.responds_again.notify_one();
        }
    }

    /// Marks the mount as unresponsive, unless it has answered another probe meanwhile.
    fn mark_unresponsive_since(&self, answers: u64, asked: Instant) -> UnresponsiveMount {
        let is_new = {
            let mut probe_result = sync::lock(&self.probe_result);
            let is_new = probe_result.unresponsive.is_none() && probe_result.answers == answers;
            if is_new {
                probe_result.unresponsive = Some(asked);
            }
            is_new
        };
        if is_new {
            tracing::warn!("mount {} is not responding", shown_path(&self.point));
        }
        UnresponsiveMount { mount: shown_path(&self.point), time: asked.elapsed() }
    }

    fn unresponsive(&self) -> Option<UnresponsiveMount> {
        let since = sync::lock(&self.probe_result).unresponsive?;
        Some(UnresponsiveMount { mount: shown_path(&self.point), time: since.elapsed() })
    }
}

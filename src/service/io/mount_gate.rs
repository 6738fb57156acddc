//! Who may ask file systems that others serve: one that does not answer holds up nobody but those
//! who want something of it, and these not for long.
//!
//! Each such mount has a *lane*. So many requests at a time may be in it; before each of them a
//! process of the lane's own, its [sentinel](crate::service::io::mount_probe), asks the file system whether it
//! answers. While one question is open for too long, everybody is refused, and it costs no thread.
//! A file system that dies just between the answer and the request keeps the thread of that request;
//! but no more of them than the lane lets in.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::lock::descriptor::passed::Look;
use crate::lock::mount::{Mount, Mounts};
use crate::lock::path::walk::far_mount;
use crate::lock::request::Asked;
use crate::lock::text::escape::shown_path;
use crate::service::Error;
use crate::service::io::mount_probe::Sentinel;

/// How long a file system may take to answer, and how long somebody waits to be let in.
pub(in crate::service) const PATIENCE: Duration = Duration::from_secs(5);
/// How many requests at a time may be with one file system.
const ABREAST: usize = 8;

/// All lanes.
#[derive(Debug, Default)]
pub(in crate::service) struct Lanes {
    /// By device and mount point.
    known: Mutex<HashMap<(u64, PathBuf), Arc<Lane>>>,
    /// Told when one answers again that did not.
    heard: Arc<Notify>,
}

/// A mount whose file system does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silent {
    /// Where it is, escaped.
    pub mount: String,
    /// For how long.
    pub time: Duration,
}

impl Lanes {
    /// Returns the remote mounts that these lead to. For a request that counts already, since a lookup
    /// in a local file system may hang; asks no remote one.
    pub(in crate::service) fn far(asked: &[Asked<'_>]) -> Vec<Mount> {
        let mounts = mounts();
        if !mounts.iter().any(Mount::is_far) {
            return Vec::new();
        }
        let mount = |asked: &Asked<'_>| match asked {
            Asked::Path(path) => far_mount(&mounts, path).cloned(),
            Asked::File(fd) => mount_of(&mounts, *fd).filter(|mount| mount.is_far()).cloned(),
        };
        let mut far: Vec<Mount> = asked.iter().filter_map(mount).collect();
        // In one order for all, since one may need several.
        far.sort_by_key(|mount| mount.id);
        far.dedup_by_key(|mount| mount.id);
        far
    }

    /// Lets a request in to all of these.
    ///
    /// # Errors
    ///
    /// [`Error::Silent`].
    pub(in crate::service) async fn admit(
        &self,
        far: &[Mount],
    ) -> Result<Vec<OwnedSemaphorePermit>, Error> {
        let mut passes = Vec::with_capacity(far.len());
        for mount in far {
            passes.push(self.lane(mount).admit().await?);
        }
        Ok(passes)
    }

    /// Holds these for silent until they are heard again: something was asked of them, and there is no
    /// answer.
    pub(in crate::service) fn doubt(&self, far: &[Mount]) {
        for mount in far {
            let lane = self.lane(mount);
            let answers = locked(&lane.said).answers;
            let asked = Instant::now().checked_sub(PATIENCE).unwrap_or_else(Instant::now);
            lane.fall_silent(answers, asked);
            tokio::spawn(lane.ask());
        }
    }

    /// What tells when one answers again that did not.
    pub(in crate::service) fn heard(&self) -> &Notify {
        &self.heard
    }

    /// Those that do not answer.
    pub(in crate::service) fn silent(&self) -> Vec<Silent> {
        let lanes: Vec<Arc<Lane>> = locked(&self.known).values().cloned().collect();
        lanes.iter().filter_map(|lane| lane.silent()).collect()
    }

    fn lane(&self, mount: &Mount) -> Arc<Lane> {
        let mut lanes = locked(&self.known);
        let key = (mount.dev, mount.point.clone());
        if !lanes.contains_key(&key) {
            // Here, where it seldom matters how long it takes: of what is mounted no more, and
            // nobody uses.
            if let Ok(mounts) = Mounts::current() {
                let there = |dev, point: &Path| {
                    mounts.iter().any(|mount| mount.dev == dev && mount.point == point)
                };
                lanes
                    .retain(|(dev, point), lane| Arc::strong_count(lane) > 1 || there(*dev, point));
            }
        }
        Arc::clone(
            lanes
                .entry(key)
                .or_insert_with(|| Arc::new(Lane::new(mount.point.clone(), &self.heard))),
        )
    }
}

/// Returns what is mounted; nothing where that can't be read, which is logged.
pub(super) fn mounts() -> Arc<Mounts> {
    Mounts::current().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot read the list of mounts");
        Arc::default()
    })
}

/// The mount that an open file is on, or one of ours that has the same file system. The kernel knows
/// without asking it.
pub(super) fn mount_of<'m>(mounts: &'m Mounts, fd: BorrowedFd<'_>) -> Option<&'m Mount> {
    Look::at(fd).ok()?.mount(mounts)
}

/// The way to one file system.
#[derive(Debug)]
struct Lane {
    point: PathBuf,
    places: Arc<Semaphore>,
    sentinel: Arc<tokio::sync::Mutex<Option<Sentinel>>>,
    said: Mutex<Said>,
    heard: Arc<Notify>,
}

/// What the file system has said.
#[derive(Debug, Default)]
struct Said {
    /// How often it has answered.
    answers: u64,
    /// Since when it does not.
    silent: Option<Instant>,
}

impl Lane {
    fn new(point: PathBuf, heard: &Arc<Notify>) -> Self {
        Self {
            heard: Arc::clone(heard),
            point,
            places: Arc::new(Semaphore::new(ABREAST)),
            sentinel: Arc::default(),
            said: Mutex::default(),
        }
    }

    async fn admit(self: Arc<Self>) -> Result<OwnedSemaphorePermit, Error> {
        if let Some(silent) = self.silent() {
            return Err(Error::Silent(silent));
        }
        let asked = Instant::now();
        let place = Arc::clone(&self.places).acquire_owned();
        let place = match timeout(PATIENCE, place).await {
            Ok(Ok(place)) => place,
            // It is never closed.
            Ok(Err(_)) => return Err(Error::Abandoned),
            Err(_) => {
                let mount = shown_path(&self.point);
                return Err(Error::Silent(Silent { mount, time: asked.elapsed() }));
            }
        };
        let answers = locked(&self.said).answers;
        // A task of its own: a question that was begun is not left half asked, and whoever it is
        // that it is answered to, the lane is open again.
        match timeout(PATIENCE, tokio::spawn(Arc::clone(&self).ask())).await {
            Ok(Ok(())) => Ok(place),
            Ok(Err(_)) => Err(Error::Abandoned),
            Err(_) => Err(Error::Silent(self.fall_silent(answers, asked))),
        }
    }

    /// Returns once the file system has answered.
    async fn ask(self: Arc<Self>) {
        let mut sentinel = Arc::clone(&self.sentinel).lock_owned().await;
        // One that has ended is replaced once; where there is no process to be had nobody can ask
        // but who wants something.
        for _ in 0..2 {
            let posted = match sentinel.take() {
                Some(posted) => Ok(posted),
                None => Sentinel::post(),
            };
            let answered = match posted {
                Ok(mut posted) => {
                    let answered = posted.ask(&self.point).await;
                    *sentinel = answered.is_ok().then_some(posted);
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
        self.heard();
    }

    fn heard(&self) {
        let before = {
            let mut said = locked(&self.said);
            said.answers += 1;
            said.silent.take()
        };
        if let Some(since) = before {
            let time = since.elapsed().as_secs();
            tracing::info!("mount {} is responding again, after {time} s", shown_path(&self.point));
            self.heard.notify_one();
        }
    }

    /// Notes that there was no answer to a question, unless there was one just now.
    fn fall_silent(&self, answers: u64, asked: Instant) -> Silent {
        let fell = {
            let mut said = locked(&self.said);
            let fell = said.silent.is_none() && said.answers == answers;
            if fell {
                said.silent = Some(asked);
            }
            fell
        };
        if fell {
            tracing::warn!("mount {} is not responding", shown_path(&self.point));
        }
        Silent { mount: shown_path(&self.point), time: asked.elapsed() }
    }

    fn silent(&self) -> Option<Silent> {
        let since = locked(&self.said).silent?;
        Some(Silent { mount: shown_path(&self.point), time: since.elapsed() })
    }
}

/// What is behind a mutex whose holders leave it whole at every moment, also where one panicked.
pub(in crate::service) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

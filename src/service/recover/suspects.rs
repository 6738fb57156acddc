//! Suspects: the disks and leases that damaged lock records name, which are locked again.
//!
//! Without stashed descriptors, a lock is acquired again from its record. A damaged record does not
//! reliably identify the owner of its lock, but it may still name the disk or lease, and the VM may
//! be writing there. So that disk or lease is locked for an owner named `suspect`, which only an
//! administrator closes. A target that another program has locked meanwhile, or that is not found,
//! is reported as lost. Only regular files and block devices are locked, and no file is created.
//! Requests of other owners are delayed meanwhile ([`suspects_gate`](super::suspects_gate)).

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use uuid::Uuid;

use crate::keep::{Suspect, SuspectName};
use crate::lock::acquire::Goal;
use crate::lock::disk::in_use::InUse;
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::lease_name::{LeaseName, spelt};
use crate::lock::path::open::Links;
use crate::lock::request::{Asked, Work};
use crate::lock::resolve::lock_file::Naming;
use crate::lock::resolve::{Resolve, Wanted};
use crate::lock::table::renewal::Renewed;
use crate::lock::{self, Mode, OwnerId, Proof, Reason, Want};
use crate::service::lock::request::{Disk, LockRequest};
use crate::service::verify::Found;
use crate::service::{Error, Service};

/// The owner of these locks, with a fixed UUID so that it can be searched for.
pub(in crate::service) const SUSPECT: OwnerId =
    OwnerId::new(0, Uuid::from_bytes(*b"vmlockd:suspect\0"));
/// The name of this owner.
pub(in crate::service) const SUSPECT_NAME: &str = "suspect";
/// How many suspects are locked at a time: one that hangs delays few others.
const AT_ONCE: usize = 8;

/// The retry interval of a suspect whose storage does not respond.
const AGAIN: Duration = Duration::from_secs(10);

/// The outcome of an attempt to lock a suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The suspect is locked, or was reported as lost.
    Done,
    /// The storage of the suspect does not respond.
    Delayed,
}

impl Service {
    /// Locks the targets of damaged records; each comes with the number of the lock that was
    /// entered for it, if any. Returns at once.
    pub(in crate::service) fn lock_suspects(&self, suspects: Vec<(Suspect, Option<u64>)>) {
        if suspects.is_empty() {
            return;
        }
        let service = self.clone();
        let locking = tokio::spawn(async move {
            let mut delayed = Vec::new();
            for some in suspects.chunks(AT_ONCE) {
                let tasks: Vec<_> = some
                    .iter()
                    .map(|(suspect, number)| {
                        let (service, suspect, number) =
                            (service.clone(), suspect.clone(), *number);
                        tokio::spawn(async move {
                            let outcome = service.lock_suspect(&suspect, number).await;
                            (outcome == Outcome::Delayed).then_some(suspect)
                        })
                    })
                    .collect();
                for task in tasks {
                    // The task logs its own errors.
                    delayed.extend(task.await.ok().flatten());
                }
            }
            service.0.suspects.open();
            service.lock_delayed(delayed).await;
            service.close_suspect_if_empty().await;
        });
        let service = self.clone();
        tokio::spawn(async move {
            // The task goes on after the limit.
            let _ = timeout(super::suspects_gate::LIMIT, locking).await;
            service.0.suspects.open();
        });
    }

    /// Retries the suspects whose storage did not respond, as soon as it responds.
    async fn lock_delayed(&self, mut delayed: Vec<Suspect>) {
        while !delayed.is_empty() {
            // It may have responded before this wait began.
            let _ = timeout(AGAIN, self.storage().heard()).await;
            let mut still = Vec::new();
            for suspect in delayed {
                match self.acquire_suspect(&suspect).await {
                    Err(Error::UnresponsiveMount(_)) => still.push(suspect),
                    outcome => self.report_acquired(&suspect.name.shown(), outcome),
                }
            }
            delayed = still;
        }
    }

    async fn lock_suspect(&self, suspect: &Suspect, number: Option<u64>) -> Outcome {
        let name = suspect.name.shown();
        if let Some(number) = number {
            let found = self.verify(number).await;
            let is_there = self.lock(number).is_some_and(|lock| lock.proof == Proof::Verified);
            if found == Found::There && is_there {
                self.complete_suspect(suspect, number).await;
                report_locked(&name, number);
                return Outcome::Done;
            }
        }
        // The identity may be the damaged part of the record.
        match self.acquire_suspect(suspect).await {
            Err(error @ Error::UnresponsiveMount(_)) => {
                tracing::error!(
                    "a damaged lock record names {name}, which is locked again as soon as its storage \
                     responds: {error}"
                );
                Outcome::Delayed
            }
            outcome => {
                self.report_acquired(&name, outcome);
                Outcome::Done
            }
        }
    }

    /// Logs the result of acquiring a suspect by its name.
    fn report_acquired(&self, name: &str, outcome: Result<Option<u64>, Error>) {
        match outcome {
            Ok(Some(number)) => report_locked(name, number),
            // The owner's lock is the one that was just found lost, which is logged.
            Ok(None) => {}
            Err(error @ Error::Held { .. }) => {
                tracing::warn!(
                    "a damaged lock record names {name}, which another owner has locked: {error}"
                );
            }
            Err(error) => {
                self.counts().lost();
                tracing::error!(
                    "lost: a damaged lock record names {name}, which cannot be locked again: {error}"
                );
            }
        }
    }

    /// Acquires the disk or lease by its name; returns `None` if the owner already has a lock on
    /// it.
    async fn acquire_suspect(&self, suspect: &Suspect) -> Result<Option<u64>, Error> {
        let refused = match self.acquire_as(suspect, suspect.mode).await {
            Err(Error::Held { refusal, .. }) if suspect.mode == Mode::Exclusive => refusal,
            outcome => return outcome,
        };
        // The mode may be the damaged part of the record: if others share the disk, it was shared.
        let message = refused.to_string();
        if refused.holders.iter().all(|holder| holder.mode == Mode::Shared) {
            return self.acquire_as(suspect, Mode::Shared).await;
        }
        Err(Error::Held { message, refusal: refused })
    }

    async fn acquire_as(&self, suspect: &Suspect, mode: Mode) -> Result<Option<u64>, Error> {
        let disk = match &suspect.name {
            SuspectName::Disk(path) => Disk::Wanted(resolve(path, self)?),
            SuspectName::LockFile(file) => {
                let name = file.parent().zip(file.file_name().and_then(|name| name.to_str()));
                let name =
                    name.and_then(|(directory, key)| LeaseName::parse(&spelt(directory, key)));
                let unnamed = || lock::Error::missing(suspect.name.shown());
                Disk::Lease(name.ok_or_else(unnamed)??)
            }
        };
        let ask =
            LockRequest { disk, mode, with_lease: false, in_use: InUse::Allowed, named_by: None };
        let granted = self.acquire(SUSPECT, vec![ask], None).await?;
        Ok(granted.fresh.first().copied())
    }

    /// Looks up the stack of a disk, which the damaged record may lack.
    async fn complete_suspect(&self, suspect: &Suspect, number: u64) {
        let SuspectName::Disk(path) = &suspect.name else { return };
        let Ok(resolve) = resolve(path, self) else { return };
        let complete = Complete { service: self.clone(), number, resolve };
        if let Err(error) = self.storage().run(complete).await {
            tracing::warn!(lock = number, %error, "cannot find out what storage a suspect disk is on");
        }
    }

    /// Closes the owner if nothing could be locked for it.
    async fn close_suspect_if_empty(&self) {
        let ended = self.end(SUSPECT, Reason::OwnerClosed, |state| {
            let owner = state.table.living(SUSPECT)?;
            let empty = owner.locks.is_empty();
            empty.then_some(()).ok_or(lock::Error::OwnerExists(SUSPECT).into())
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "not ending the owner of suspect locks");
        }
    }
}

/// Returns the lookup of a disk by the current settings.
fn resolve(path: &Path, service: &Service) -> Result<Resolve, Error> {
    let path = DiskPath::from_bytes(path.as_os_str().as_bytes())?;
    let naming = Naming::Rules(service.settings().lockspaces);
    Ok(Resolve { wanted: Wanted::Path(path), naming, links: Links::Follow })
}

/// Looks up the stack of a disk that is locked already.
struct Complete {
    service: Service,
    number: u64,
    resolve: Resolve,
}

impl Work for Complete {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        self.resolve.asks()
    }

    fn perform(self) {
        let Self { service, number, resolve } = self;
        let Some(lock) = service.lock(number) else { return };
        let Ok(target) = resolve.perform() else { return };
        let Want { identity, below, copies, .. } =
            Goal::Disk(Box::new(target)).want(lock.want.mode);
        if identity == lock.want.identity {
            service.state().table.store_renewed(&lock, Renewed { below, copies });
        }
    }
}

fn report_locked(name: &str, number: u64) {
    tracing::warn!(
        lock = number,
        "a damaged lock record names {name}: it is locked again as suspect until an administrator \
         releases it ('vmlockctl release {number}')"
    );
}

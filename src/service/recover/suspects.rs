//! Suspects: the disks and leases that damaged lock records name, which are locked again.
//!
//! Without stashed descriptors, a lock is acquired again from its record. A damaged record does not
//! reliably identify the owner of its lock, but it may still name the disk or lease, and the VM may
//! be writing there. So that disk or lease is locked for an owner named `suspect`, which only an
//! administrator closes. A target that another program has locked meanwhile, or that is not found,
//! is reported as lost. Only regular files and block devices are locked, and no file is created.
//! Requests of other owners are delayed meanwhile ([`crate::service::core::suspect`]).

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::keep::{Suspect, SuspectName};
use crate::lock::acquire::goal::Goal;
use crate::lock::disk::in_use::InUse;
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::lease_name::{LeaseName, spelt};
use crate::lock::path::open::Links;
use crate::lock::request::{Asked, Work};
use crate::lock::resolve::lock_file::Naming;
use crate::lock::resolve::{Resolve, Wanted};
use crate::lock::table::Again;
use crate::lock::table::renewal::Renewed;
use crate::lock::{self, Mode, Proof, Reason, Want};
use crate::service::components::Components;
use crate::service::core::error::Error;
use crate::service::core::suspect::{self, SUSPECT};
use crate::service::lock::acquire::Acquisition;
use crate::service::lock::end;
use crate::service::lock::request::{Disk, LockRequest};
use crate::service::verify::VerificationOutcome;
use crate::service::wait;

/// How many suspects are locked at a time: one that hangs delays few others.
const AT_ONCE: usize = 8;

/// The retry interval of a suspect whose storage does not respond.
const AGAIN: Duration = Duration::from_secs(10);

/// The outcome of an attempt to lock a suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SuspectOutcome {
    /// The suspect is locked, or was reported as lost.
    Done,
    /// The storage of the suspect does not respond.
    Delayed,
}

/// Locks the targets of damaged records; each comes with the number of the lock that was
/// entered for it, if any. Returns at once.
pub(in crate::service) fn lock_suspects(
    components: &Arc<Components>,
    suspects: Vec<(Suspect, Option<u64>)>,
) {
    if suspects.is_empty() {
        return;
    }
    let shared = Arc::clone(components);
    let locking = tokio::spawn(async move {
        let components = shared;
        let mut delayed = Vec::new();
        for some in suspects.chunks(AT_ONCE) {
            let tasks: Vec<_> = some
                .iter()
                .map(|(suspect, number)| {
                    let (components, suspect, number) =
                        (Arc::clone(&components), suspect.clone(), *number);
                    tokio::spawn(async move {
                        let outcome = lock_suspect(&components, &suspect, number).await;
                        (outcome == SuspectOutcome::Delayed).then_some(suspect)
                    })
                })
                .collect();
            for task in tasks {
                // The task logs its own errors.
                delayed.extend(task.await.ok().flatten());
            }
        }
        components.suspects_gate.open();
        lock_delayed(&components, delayed).await;
        close_suspect_if_empty(&components).await;
    });
    let components = Arc::clone(components);
    tokio::spawn(async move {
        // The task goes on after the limit.
        let _ = timeout(suspect::LIMIT, locking).await;
        components.suspects_gate.open();
    });
}

/// Retries the suspects whose storage did not respond, as soon as it responds.
async fn lock_delayed(components: &Arc<Components>, mut delayed: Vec<Suspect>) {
    while !delayed.is_empty() {
        // It may have responded before this wait began.
        let _ = timeout(AGAIN, components.executor.responds_again()).await;
        let mut still = Vec::new();
        for suspect in delayed {
            match acquire_suspect(components, &suspect).await {
                Err(Error::UnresponsiveMount(_)) => still.push(suspect),
                outcome => report_acquired(components, &suspect.name.shown(), outcome),
            }
        }
        delayed = still;
    }
}

async fn lock_suspect(
    components: &Arc<Components>,
    suspect: &Suspect,
    number: Option<u64>,
) -> SuspectOutcome {
    let name = suspect.name.shown();
    if let Some(number) = number {
        let found = components.verifier.verify(number).await;
        let is_there =
            components.state.held_lock(number).is_some_and(|lock| lock.proof == Proof::Verified);
        if found == VerificationOutcome::Held && is_there {
            complete_suspect(components, suspect, number).await;
            report_locked(&name, number);
            return SuspectOutcome::Done;
        }
    }
    // The identity may be the damaged part of the record.
    match acquire_suspect(components, suspect).await {
        Err(error @ Error::UnresponsiveMount(_)) => {
            tracing::error!(
                "a damaged lock record names {name}, which is locked again as soon as its storage \
                 responds: {error}"
            );
            SuspectOutcome::Delayed
        }
        outcome => {
            report_acquired(components, &name, outcome);
            SuspectOutcome::Done
        }
    }
}

/// Logs the result of acquiring a suspect by its name.
fn report_acquired(components: &Arc<Components>, name: &str, outcome: Result<Option<u64>, Error>) {
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
            components.metrics.lost();
            tracing::error!(
                "lost: a damaged lock record names {name}, which cannot be locked again: {error}"
            );
        }
    }
}

/// Acquires the disk or lease by its name; returns `None` if the owner already has a lock on
/// it.
async fn acquire_suspect(
    components: &Arc<Components>,
    suspect: &Suspect,
) -> Result<Option<u64>, Error> {
    let refused = match acquire_as(components, suspect, suspect.mode).await {
        Err(Error::Held { refusal, .. }) if suspect.mode == Mode::Exclusive => refusal,
        outcome => return outcome,
    };
    // The mode may be the damaged part of the record: if others share the disk, it was shared.
    let message = refused.to_string();
    if refused.holders.iter().all(|holder| holder.mode == Mode::Shared) {
        return acquire_as(components, suspect, Mode::Shared).await;
    }
    Err(Error::Held { message, refusal: refused })
}

async fn acquire_as(
    components: &Arc<Components>,
    suspect: &Suspect,
    mode: Mode,
) -> Result<Option<u64>, Error> {
    let disk = match &suspect.name {
        SuspectName::Disk(path) => Disk::Wanted(resolve(path, components)?),
        SuspectName::LockFile(file) => {
            let name = file.parent().zip(file.file_name().and_then(|name| name.to_str()));
            let name = name.and_then(|(directory, key)| LeaseName::parse(&spelt(directory, key)));
            let unnamed = || lock::Error::missing(suspect.name.shown());
            Disk::Lease(name.ok_or_else(unnamed)??)
        }
    };
    let request =
        LockRequest { disk, mode, with_lease: false, in_use: InUse::Allowed, named_by: None };
    let acquisition = Acquisition::new(components, SUSPECT, vec![request], Again::Same);
    let granted = wait::run_locked(components, acquisition, None).await?;
    Ok(granted.fresh.first().copied())
}

/// Looks up the stack of a disk, which the damaged record may lack.
async fn complete_suspect(components: &Arc<Components>, suspect: &Suspect, number: u64) {
    let SuspectName::Disk(path) = &suspect.name else { return };
    let Ok(resolve) = resolve(path, components) else { return };
    let complete = Complete { components: Arc::clone(components), number, resolve };
    if let Err(error) = components.executor.run(complete).await {
        tracing::warn!(lock = number, %error, "cannot find out what storage a suspect disk is on");
    }
}

/// Closes the owner if nothing could be locked for it.
async fn close_suspect_if_empty(components: &Arc<Components>) {
    let ended = end::end(components, SUSPECT, Reason::OwnerClosed, |state| {
        let owner = state.table.living(SUSPECT)?;
        let empty = owner.locks.is_empty();
        empty.then_some(()).ok_or(lock::Error::OwnerExists(SUSPECT).into())
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "not ending the owner of suspect locks");
    }
}

/// Returns the lookup of a disk by the current settings.
fn resolve(path: &Path, components: &Components) -> Result<Resolve, Error> {
    let path = DiskPath::from_bytes(path.as_os_str().as_bytes())?;
    let naming = Naming::Rules(components.state().settings.lockspaces.clone());
    Ok(Resolve::new(Wanted::Path(path), naming, Links::Follow))
}

/// Looks up the stack of a disk that is locked already.
struct Complete {
    components: Arc<Components>,
    number: u64,
    resolve: Resolve,
}

impl Work for Complete {
    type Answer = ();

    fn asks(&self) -> Vec<Asked<'_>> {
        self.resolve.asks()
    }

    fn perform(self) {
        let Self { components, number, resolve } = self;
        let Some(lock) = components.state.held_lock(number) else { return };
        let Ok(target) = resolve.perform() else { return };
        let Want { identity, below, copies, .. } =
            Goal::Disk(Box::new(target)).want(lock.want.mode);
        if identity == lock.want.identity {
            components.state().table.store_renewed(&lock, Renewed { below, copies });
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

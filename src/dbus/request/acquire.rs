//! The acquisition of locks: from the resources that a caller names to the locks that the service
//! grants.
//!
//! 1. The resources and modes are parsed. This touches no file.
//! 2. Every name is authorized as a string, before any file is touched: a caller that may not lock
//!    by name does not learn whether the file exists.
//! 3. The names are resolved and the descriptors inspected. For a caller about which polkit
//!    decided, a name that contains a symbolic link is refused wherever it leads, and so is one
//!    with `..`: the decision was about the string, and a rule that allows one directory must not
//!    become a way to touch, or to learn of, files elsewhere.
//! 4. Every descriptor is authorized, depending on its access mode.
//! 5. The caller is still connected.
//! 6. The service acquires all locks, or none; a request with a timeout waits there for its turn.
//! 7. If the caller has disconnected while the request waited, the locks are rolled back.

use std::sync::Arc;

use super::authorize::{VmDetails, authorize_name, with_holders};
use super::options::{Options, RawOptions, Timeout, receive_descriptor};
use crate::auth::action::Action;
use crate::auth::authorizer::Call;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::lock::descriptor::passed::Sender;
use crate::lock::descriptor::received::Received;
use crate::lock::disk::in_use::InUse;
use crate::lock::model::disk_path::Resource;
use crate::lock::path::open::Links;
use crate::lock::resolve::lock_file::Naming;
use crate::lock::resolve::{Access, Resolve, Target, Wanted};
use crate::lock::{Mode, OwnerId};
use crate::service::{Disk, Granted, LockRequest, ResolveFor};

/// The number of descriptors in one call; the default policy of the system bus allows no more.
const FILES_MAX: usize = 16;

/// The options of `Acquire` and `AcquireWithFiles`.
#[derive(Debug)]
pub(crate) struct AcquireOptions {
    timeout: Timeout,
    in_use: InUse,
}

impl AcquireOptions {
    /// Parses the options.
    ///
    /// # Errors
    ///
    /// `InvalidArgs`.
    pub(crate) fn parse(raw: RawOptions) -> Result<Self, Error> {
        let mut options = Options::new(raw);
        let (timeout, in_use) = (options.timeout()?, options.in_use()?);
        options.finish()?;
        Ok(Self { timeout, in_use })
    }
}

/// Acquires locks for an owner, and returns their numbers in the order of the request.
///
/// # Errors
///
/// `InvalidArgs`, `LimitsExceeded`; the errors of [`Call::authorize`]; the errors of the service.
/// No lock is held then that was not held before.
pub(crate) async fn acquire(
    context: &Context,
    call: &Call<'_>,
    (id, name): (OwnerId, &str),
    resources: &[(String, String)],
    files: Vec<(zbus::OwnedFd, String)>,
    options: AcquireOptions,
) -> Result<Vec<u64>, Error> {
    let AcquireOptions { timeout, in_use } = options;
    let resources = parse_resources(context, resources, files.len())?;
    let files = files
        .into_iter()
        .map(|(file, mode)| Ok((receive_descriptor(&file)?, mode.parse::<Mode>()?)))
        .collect::<Result<_, Error>>()?;
    let vm = VmDetails::new(id, name);
    let requests = authorize_and_resolve(context, call, &vm, resources, files, in_use).await?;
    let granted = context.service.acquire(id, requests, timeout.start(call)).await?;
    let rollback = || context.service.release(id, &granted.fresh, id.uid, true);
    roll_back_if_disconnected(context, call, &granted, rollback).await?;
    Ok(granted.locks)
}

/// Parses resources and modes (step 1).
///
/// # Errors
///
/// `InvalidArgs`, `LimitsExceeded`.
pub(crate) fn parse_resources(
    context: &Context,
    resources: &[(String, String)],
    files: usize,
) -> Result<Vec<(Resource, Mode)>, Error> {
    let limit = context.service.settings().limits.resources_per_call;
    if resources.len() + files > limit {
        return Err(Error::limit_exceeded(format!(
            "{} resources in one call; the limit is {limit}",
            resources.len() + files
        )));
    }
    if files > FILES_MAX {
        return Err(Error::limit_exceeded(format!(
            "{files} descriptors in one call; the limit is {FILES_MAX}"
        )));
    }
    let parse =
        |(name, mode): &(String, String)| Ok((Resource::parse(name)?, mode.parse::<Mode>()?));
    resources.iter().map(parse).collect::<Result<_, crate::lock::Error>>().map_err(Error::from)
}

/// Authorizes and resolves all that a caller wants to lock (steps 2 to 5), in the order in which it
/// was named.
///
/// # Errors
///
/// The errors of [`Call::authorize`] and of the resolution.
pub(crate) async fn authorize_and_resolve(
    context: &Context,
    call: &Call<'_>,
    vm: &VmDetails<'_>,
    resources: Vec<(Resource, Mode)>,
    files: Vec<(Received, Mode)>,
    in_use: InUse,
) -> Result<Vec<LockRequest>, Error> {
    for (resource, mode) in &resources {
        authorize_name(context, call, resource, |name| vm.with_resource(name, *mode)).await?;
    }
    // The service resolves leases: their targets need no authorization. A disk becomes `None` here.
    let (mut leases, mut wanted, mut modes) = (Vec::new(), Vec::new(), Vec::new());
    for (resource, mode) in resources {
        match resource {
            Resource::Lease(lease) => leases.push(Some((lease, mode))),
            Resource::Disk(path) => {
                leases.push(None);
                wanted.push(Wanted::Path(path));
                modes.push(mode);
            }
        }
    }
    for (file, mode) in files {
        wanted.push(wanted_file(context, call, file));
        modes.push(mode);
    }
    let disks = if call.is_privileged() {
        // The service resolves these, too: a privileged caller needs no authorization for the
        // targets.
        resolve_requests(context, call, wanted).into_iter().map(Disk::Wanted).collect()
    } else {
        resolve_and_authorize(context, call, vm, wanted, &modes).await?
    };
    let settings = context.service.settings();
    let named_by = Some(Arc::clone(&call.caller.process));
    let mut disks = disks.into_iter().zip(modes).map(|(disk, mode)| LockRequest {
        named_by: named_by.clone(),
        disk,
        in_use,
        with_lease: settings.require_lease_for_disks && mode == Mode::Exclusive,
        mode: if settings.only_record_disks { Mode::None } else { mode },
    });
    let mut requests = Vec::new();
    for lease in leases {
        requests.extend(match lease {
            Some((lease, mode)) => {
                let (disk, named_by) = (Disk::Lease(lease), named_by.clone());
                Some(LockRequest { disk, mode, with_lease: false, in_use, named_by })
            }
            None => disks.next(),
        });
    }
    requests.extend(disks);
    Ok(requests)
}

/// Resolves disks, and authorizes descriptors (steps 3 to 5), for a caller that is not privileged.
async fn resolve_and_authorize(
    context: &Context,
    call: &Call<'_>,
    vm: &VmDetails<'_>,
    wanted: Vec<Wanted>,
    modes: &[Mode],
) -> Result<Vec<Disk>, Error> {
    let requests = resolve_requests(context, call, wanted);
    // To resolve a name again, if the request has to wait.
    let again: Vec<Option<Resolve>> = requests.iter().map(Resolve::again).collect();
    let targets = run_resolve(context, call, requests).await?;
    for (target, mode) in targets.iter().zip(modes) {
        if let Some(access) = target.shown {
            authorize_descriptor(context, call, vm, target, access, *mode).await?;
        }
    }
    if !call.caller.is_connected() {
        return Err(crate::auth::Error::CallerGone.into());
    }
    let found = targets.into_iter().zip(again);
    Ok(found.map(|(target, again)| Disk::Found(Box::new(target), again.map(Box::new))).collect())
}

/// Returns the request to resolve a descriptor of a disk.
pub(crate) fn wanted_file(context: &Context, call: &Call<'_>, file: Received) -> Wanted {
    let trusted = call.is_privileged() || context.service.settings().allow_fuse;
    Wanted::File(file, Sender { uid: call.uid(), trusted })
}

/// Resolves disks (step 3).
///
/// # Errors
///
/// The error of the first disk that cannot be resolved.
pub(crate) async fn resolve(
    context: &Context,
    call: &Call<'_>,
    wanted: impl IntoIterator<Item = Wanted>,
) -> Result<Vec<Target>, Error> {
    run_resolve(context, call, resolve_requests(context, call, wanted)).await
}

fn resolve_requests(
    context: &Context,
    call: &Call<'_>,
    wanted: impl IntoIterator<Item = Wanted>,
) -> Vec<Resolve> {
    let naming = Naming::Rules(context.service.settings().lockspaces);
    let links = if call.is_privileged() { Links::Follow } else { Links::Refuse };
    let request = |wanted| Resolve::new(wanted, naming.clone(), links);
    wanted.into_iter().map(request).collect()
}

async fn run_resolve(
    context: &Context,
    call: &Call<'_>,
    requests: Vec<Resolve>,
) -> Result<Vec<Target>, Error> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let inspection = Arc::clone(context.service.inspection());
    let caller = Arc::clone(&call.caller.process);
    let request = ResolveFor { inspection, caller, requests };
    Ok(context.service.executor().run_for(call.uid(), request).await??)
}

/// Authorizes a descriptor (step 4). A caller that has a file open for writing may lock it in any
/// mode. A caller that has it open for reading may lock it in shared mode if its user owns the
/// file: otherwise any user could block the VMs of all users.
async fn authorize_descriptor(
    context: &Context,
    call: &Call<'_>,
    vm: &VmDetails<'_>,
    target: &Target,
    access: Access,
    mode: Mode,
) -> Result<(), Error> {
    if target.fuse && !call.is_privileged() && !context.service.settings().allow_fuse {
        let why = if target.path().is_some() {
            "it is on FUSE, which 'allow_fuse' does not allow"
        } else {
            "it may be on FUSE, which 'allow_fuse' does not allow: its name is not visible to vmlockd"
        };
        return Err(crate::lock::Error::not_lockable(&target.name, why).into());
    }
    let is_sufficient = match (access, mode) {
        (Access::ReadWrite, _) => true,
        (Access::Read, Mode::Shared) => target.uid == call.uid(),
        (Access::Read, Mode::Exclusive | Mode::None) => false,
    };
    let action = if is_sufficient { Action::AcquireByDescriptor } else { Action::AcquireByName };
    match call.authorize(action, &vm.with_resource(&target.name, mode)).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let locks = context.service.locks_on(target.identity, &target.occupies());
            Err(with_holders(context, call, error.into(), &target.name, locks).await)
        }
    }
}

/// Runs a rollback if the caller has disconnected while the request waited (step 7). The bus is
/// queried for that, since the signal that the caller has disconnected may still be in transit.
///
/// # Errors
///
/// `WaitCancelled` after a rollback.
pub(crate) async fn roll_back_if_disconnected<R>(
    context: &Context,
    call: &Call<'_>,
    granted: &Granted,
    rollback: impl FnOnce() -> R,
) -> Result<(), Error>
where
    R: Future<Output = Result<(), crate::service::Error>>,
{
    if !granted.waited || context.auth.callers.confirm_connected(&call.caller).await {
        return Ok(());
    }
    // No client reads the reply, so a failure of the rollback is only logged.
    if let Err(error) = rollback().await {
        tracing::debug!(%error, "cannot undo a request whose caller has disconnected");
    }
    Err(crate::service::Error::CallerGone.into())
}

//! Who holds a disk, or a lease: from the table, and from the kernel where the table knows nobody.

use std::os::fd::OwnedFd;

use super::error::Error;
use super::facts::{self, Facts};
use super::front::Front;
use crate::auth::deed::Action;
use crate::auth::deed::Details;
use crate::auth::gate::Call;
use crate::lock::fdinfo::Processes;
use crate::lock::holder::{Holder, Stranger};
use crate::lock::lease::LeaseName;
use crate::lock::probe::{Beside, Others, Probe};
use crate::lock::resolve::{Identify, Target, Wanted};
use crate::lock::resource::{DiskPath, Resource};
use crate::lock::{Lock, Mode};
use crate::service::describe::{HolderUsers, ProcessUsers};

use super::claims;

/// Answers by name. Finding out what the name means is only for who may lock by name; for others
/// the string is compared with the names in the table. No dialog either way: asking who holds a
/// disk must not.
///
/// # Errors
///
/// `InvalidArgs`; what resolving fails with.
pub(super) async fn by_name(
    front: &Front,
    call: &Call<'_>,
    name: &str,
) -> Result<Vec<Facts>, Error> {
    let resource = Resource::parse(name)?;
    let details = Details::from([("resource", name)]);
    let climbs = matches!(&resource, Resource::Disk(path) if path.climbs());
    let may = (call.passes() || !climbs) && call.may(Action::AcquireByName, &details).await;
    if !may {
        return told(front, front.service.locks_named(name)).await;
    }
    let found = match resource {
        Resource::Lease(lease) => of_lease(front, lease).await,
        Resource::Disk(path) => of_path(front, call, path).await,
    };
    match found {
        // Root is told what is amiss. Who may only name what a rule allows is told of the table:
        // what lies behind a link is none of his business.
        Err(error) if call.passes() => Err(error),
        Ok(holders) => Ok(holders),
        Err(_) => told(front, front.service.locks_named(name)).await,
    }
}

/// Answers by descriptor: what the caller has open he may know the holders of.
///
/// # Errors
///
/// `NotLockable` for what is neither file nor block device.
pub(super) async fn by_file(
    front: &Front,
    call: &Call<'_>,
    file: OwnedFd,
) -> Result<Vec<Facts>, Error> {
    let storage = front.service.storage();
    let (file, identity) = storage.run(Identify(file)).await??;
    let resolved = claims::resolve(front, call, [Wanted::File(file)]).await;
    match resolved.ok().and_then(|mut targets| targets.pop()) {
        // Testing opens the disk anew, and on FUSE any user's process would answer that.
        Some(target) if call.passes() || !target.fuse => of_target(front, target).await,
        // A descriptor that can't be tested through still says which disk it is.
        _ => told(front, front.service.locks_on(identity, &[])).await,
    }
}

/// Adds to a refusal of authorization the owners that hold the resource, as far as [`by_name`] and
/// [`by_file`] name them to anybody.
pub(super) async fn with_holders(
    front: &Front,
    error: Error,
    resource: &str,
    locks: Vec<Lock>,
) -> Error {
    match front.service.describe_holders(resource, &locks).await {
        Some(holders) => error.and(holders),
        None => error,
    }
}

async fn of_path(front: &Front, call: &Call<'_>, path: DiskPath) -> Result<Vec<Facts>, Error> {
    let targets = claims::resolve(front, call, [Wanted::Path(path)]).await?;
    match targets.into_iter().next() {
        Some(target) => of_target(front, target).await,
        None => Ok(Vec::new()),
    }
}

async fn of_lease(front: &Front, lease: LeaseName) -> Result<Vec<Facts>, Error> {
    let name = lease.as_str().to_owned();
    let (locks, stranger) = front.service.probe_lease(lease).await?;
    if locks.is_empty() {
        return others(front, &name, stranger, None, &[]).await;
    }
    told(front, locks).await
}

async fn of_target(front: &Front, target: Target) -> Result<Vec<Facts>, Error> {
    let (storage, host) = (front.service.storage(), front.service.host());
    let locks = front.service.locks_on(target.identity, &target.below);
    let name = target.name.clone();
    if locks.iter().all(|lock| lock.want.mode == Mode::None) {
        // Those for whom it is only recorded are in nobody's way.
        let holders = front.service.holders(&locks);
        let mut all = told(front, locks).await?;
        all.extend(match storage.run(Probe { target, host }).await?? {
            Others::Hold(stranger) => others(front, &name, Some(*stranger), None, &holders).await,
            Others::Use(users) => others(front, &name, None, Some(users), &holders).await,
        }?);
        return Ok(all);
    }
    let held = front.service.held(&locks);
    let holders = front.service.holders(&locks);
    let (stranger, users) = storage.run(Beside { target, held, host }).await?;
    let mut all = told(front, locks).await?;
    all.extend(others(front, &name, stranger, Some(users), &holders).await?);
    Ok(all)
}

/// Those who are no owners of ours: who else holds the disk, then who has it open and holds nothing.
async fn others(
    front: &Front,
    name: &str,
    stranger: Option<Stranger>,
    users: Option<Processes>,
    holders: &[Holder],
) -> Result<Vec<Facts>, Error> {
    let (storage, host) = (front.service.storage(), front.service.host_name());
    let mut all = Vec::new();
    let mut users = users.unwrap_or_default();
    if let Some(stranger) = stranger {
        all.extend(stranger.recorded.iter().map(facts::of_recorded));
        let more = stranger.processes.more > 0;
        for (process, user) in storage.run(ProcessUsers(stranger.processes)).await? {
            users.leave_out(|user| user.pid == process.pid);
            all.push(facts::of_process(&process, "process", user, &host));
        }
        if all.is_empty() || more {
            all.push(facts::of_unknown());
        }
        let mode = stranger.mode.as_str();
        for facts in &mut all {
            facts::held_as(facts, mode, name);
        }
        if users.named.is_empty() {
            users = stranger.users;
        }
    }
    users.leave_out(|user| holders.iter().any(|holder| holder.pid == user.pid));
    for (process, user) in storage.run(ProcessUsers(users)).await? {
        let mode = process.mode.unwrap_or(Mode::Shared).as_str();
        let mut facts = facts::of_process(&process, "user", user, &host);
        facts::held_as(&mut facts, mode, name);
        all.push(facts);
    }
    Ok(all)
}

async fn told(front: &Front, locks: Vec<Lock>) -> Result<Vec<Facts>, Error> {
    let (holders, host) = (front.service.holders(&locks), front.service.host_name());
    let named = front.service.storage().run(HolderUsers(holders)).await?;
    front.service.all_shown().await;
    let facts = named
        .into_iter()
        .map(|(holder, user, program)| facts::of_holder(&holder, user, program, &host));
    Ok(facts.collect())
}

//! Who holds a disk, or a lease: from the table, and from the kernel where the table knows nobody.

use std::iter;

use super::error::Error;
use super::facts::{self, Facts};
use super::front::Front;
use super::redact;
use crate::auth::action::Action;
use crate::auth::action::Details;
use crate::auth::authorizer::Call;
use crate::inspector::Asker;
use crate::lock::fdinfo::Search;
use crate::lock::holder::{Holder, Stranger};
use crate::lock::lease::LeaseName;
use crate::lock::probe::{self, Beside, Probe};
use crate::lock::received::Received;
use crate::lock::resolve::{Identify, Target, Wanted};
use crate::lock::resource::{DiskPath, Resource};
use crate::lock::{Lock, Mode};
use crate::privacy::Viewer;
use crate::service::describe::{HolderUsers, ProcessUsers};
use crate::service::name_states::NameQuestion;
use crate::service::naming::{NameProcesses, Named, is_known};

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
    let named = visible(call, front.service.locks_named(name));
    let resource = match Resource::parse(name) {
        Ok(resource) => resource,
        // What came as a descriptor may be listed by a name that is no path.
        Err(_) if !named.is_empty() => return told(front, call, named).await,
        Err(error) => return Err(error.into()),
    };
    let details = Details::from([("resource", name)]);
    let climbs = matches!(&resource, Resource::Disk(path) if path.climbs());
    let may = (call.is_privileged() || !climbs)
        && call.is_authorized(Action::AcquireByName, &details).await;
    if !may {
        if !named.is_empty() {
            front.service.check_unresolved(&call.caller.process, name).await?;
        }
        return told(front, call, named).await;
    }
    let found = match resource {
        Resource::Lease(lease) => of_lease(front, call, lease).await,
        Resource::Disk(path) => of_path(front, call, path, &named).await,
    };
    match found {
        // What is listed by this name may be another file than the caller's.
        Err(error) if error.is_foreign() => Err(error),
        // Root is told what is amiss, unless locks are listed by this name: then its file was
        // deleted, moved or replaced by what is no disk. Who may only name what a rule allows is
        // told of the table: what lies behind a link is none of its business.
        Err(error) if call.is_privileged() && named.is_empty() => Err(error),
        Ok(holders) => Ok(holders),
        Err(_) => told(front, call, named).await,
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
    file: Received,
) -> Result<Vec<Facts>, Error> {
    let storage = front.service.storage();
    let (file, identity) = storage.run_for(call.uid(), Identify(file)).await??;
    let resolved = claims::resolve(front, call, [claims::passed(front, call, file)]).await;
    match resolved.ok().and_then(|mut targets| targets.pop()) {
        // Testing opens the disk anew, and on FUSE any user's process would answer that.
        Some(target) if call.is_privileged() || !target.fuse => {
            let named = visible(call, front.service.locks_named(&target.name));
            of_target(front, call, target, &named).await
        }
        // A descriptor that can't be tested through still says which disk it is.
        _ => told(front, call, front.service.locks_on(identity, &[])).await,
    }
}

/// Those of these locks that the caller may see.
fn visible(call: &Call<'_>, mut locks: Vec<Lock>) -> Vec<Lock> {
    let viewer = call.viewer();
    locks.retain(|lock| viewer.may_see(lock.owner.uid));
    locks
}

/// Adds to a refusal of authorization the owners that hold the resource, as far as [`by_name`] and
/// [`by_file`] name them to anybody, and the caller may see them.
pub(super) async fn with_holders(
    front: &Front,
    call: &Call<'_>,
    error: Error,
    resource: &str,
    locks: Vec<Lock>,
) -> Error {
    let locks = visible(call, locks);
    match front.service.describe_holders(Asker::User(call.uid()), resource, &locks).await {
        Some(holders) => error.and(holders),
        None => error,
    }
}

async fn of_path(
    front: &Front,
    call: &Call<'_>,
    path: DiskPath,
    named: &[Lock],
) -> Result<Vec<Facts>, Error> {
    let targets = claims::resolve(front, call, [Wanted::Path(path)]).await?;
    match targets.into_iter().next() {
        Some(target) => of_target(front, call, target, named).await,
        None => Ok(Vec::new()),
    }
}

async fn of_lease(front: &Front, call: &Call<'_>, lease: LeaseName) -> Result<Vec<Facts>, Error> {
    let name = lease.as_str().to_owned();
    let probed = front.service.probe_lease(&call.caller.process, lease).await?;
    let (locks, reserved, stranger) = probed;
    all(front, call, locks, Others { name, reserved, stranger, ..Others::default() }).await
}

/// The holders of what a name leads to, and of what it led to when these other locks were granted.
async fn of_target(
    front: &Front,
    call: &Call<'_>,
    target: Target,
    named: &[Lock],
) -> Result<Vec<Facts>, Error> {
    let (storage, host) = (front.service.storage(), front.service.host());
    front.service.renew_stacks_soon().await;
    let mut locks = front.service.locks_on(target.identity, &target.occupies());
    let reserved = front.service.reserved_holders(target.identity, &target.occupies());
    let name = target.name.clone();
    let others = if locks.iter().all(|lock| lock.want.mode == Mode::None) {
        // Owners for which it is only recorded block no other.
        match storage.run_for(call.uid(), Probe { target, host }).await?? {
            probe::Others::Hold(stranger) => {
                Others { name, stranger: Some(*stranger), ..Others::default() }
            }
            probe::Others::Use(users) => Others { name, users: Some(users), ..Others::default() },
        }
    } else {
        let held = front.service.held(&locks);
        let beside = Beside { target, held, host };
        let (stranger, users) = storage.run_for(call.uid(), beside).await?;
        Others { name, stranger, shares: true, users: Some(users), ..Others::default() }
    };
    for lock in named {
        if locks.iter().all(|known| known.id != lock.id) {
            locks.push(lock.clone());
        }
    }
    all(front, call, locks, Others { reserved, ..others }).await
}

/// Those that have to do with a disk and hold none of its locks here.
#[derive(Debug, Default)]
struct Others {
    /// The disk.
    name: String,
    /// Owners for which it is reserved.
    reserved: Vec<Holder>,
    stranger: Option<Stranger>,
    /// The stranger shares the disk with owners: it counts only if it can be named.
    shares: bool,
    users: Option<Search>,
}

/// The owners that hold it, then the foreign holders, then those that have it open.
async fn all(
    front: &Front,
    call: &Call<'_>,
    locks: Vec<Lock>,
    others: Others,
) -> Result<Vec<Facts>, Error> {
    let (service, storage) = (front.service.clone(), front.service.storage());
    let (mut holders, host) = (service.holders(&locks), service.host_name());
    let lifelines = service.lifelines_of(&holders, |_| true);
    let Others { name, reserved, stranger, shares, users } = others;
    holders.extend(reserved);
    let (asker, pids) =
        (Asker::User(call.uid()), holders.iter().map(|holder| holder.pid).collect());
    let naming = NameProcesses {
        service: service.clone(),
        asker,
        stranger,
        users,
        bound: pids,
        lifelines: lifelines.inodes(),
    };
    let named = naming.run().await?;
    let Named { stranger, mut users, bound, lifelines: keepers } = named;
    lifelines.enter(keepers, &mut holders);
    let viewer = call.viewer();
    for holder in &mut holders {
        holder.kept_by.leave_out(|keeper| !viewer.may_see(keeper.uid));
    }
    let bound = bound.into_iter().chain(iter::repeat(None));
    let bound: Vec<_> = holders.iter().cloned().zip(bound).collect();
    let programs: Vec<String> = bound
        .iter()
        .map(|(_, process)| process.as_ref().map(|process| process.program.clone()))
        .map(Option::unwrap_or_default)
        .collect();
    let named = storage.run(HolderUsers(bound)).await?;
    service.all_shown().await;
    let states = service.name_states(NameQuestion::new(call.uid(), &locks)).await.states();
    let states = states.into_iter().zip(service.conflicts(&locks));
    // The owners for which it is reserved follow those that hold a lock.
    let states = states.map(Some).chain(iter::repeat(None));
    let owners = named.into_iter().zip(programs).zip(states);
    let mut all = Told::new(viewer);
    for (((holder, user), program), state) in owners {
        let mut facts = facts::of_holder(&holder, user, program, &host);
        if let Some((state, conflict)) = state {
            facts::named(&mut facts, state);
            facts::conflicting(&mut facts, conflict);
        }
        all.push(Some(holder.owner.uid), holder.mode, facts);
    }
    let stranger = stranger.filter(|stranger| !shares || stranger.is_named());
    if let Some(stranger) = stranger {
        let mode = stranger.mode;
        let held_as = |mut facts: Facts| {
            facts::held_as(&mut facts, mode.as_str(), &name);
            facts
        };
        let is_recorded = !stranger.recorded.is_empty();
        for recorded in &stranger.recorded {
            all.push(None, recorded.entry.mode, held_as(facts::of_recorded(recorded)));
        }
        let (named, more) = (!stranger.processes.named.is_empty(), stranger.processes.more > 0);
        for (process, user) in storage.run(ProcessUsers(stranger.processes)).await? {
            users.leave_out(|user| user.pid == process.pid);
            let facts = facts::of_process(&process, "process", user, &host);
            all.push(Some(process.uid), mode, held_as(facts));
        }
        if !is_recorded && !named || more {
            all.push(None, mode, held_as(facts::of_unknown()));
        }
        if users.named.is_empty() {
            users = stranger.users;
        }
    }
    users.leave_out(|user| is_known(user, &holders));
    for (process, user) in storage.run(ProcessUsers(users)).await? {
        let mode = process.mode.unwrap_or(Mode::Shared).as_str();
        let mut facts = facts::of_process(&process, "opener", user, &host);
        facts::held_as(&mut facts, mode, &name);
        all.push_user(process.uid, facts);
    }
    Ok(all.finish())
}

/// The holders that a viewer is told of. Those that it may not see become one row, which has nothing
/// but how they hold the disk together.
struct Told {
    viewer: Viewer,
    rows: Vec<Facts>,
    hidden: Vec<Mode>,
}

impl Told {
    fn new(viewer: Viewer) -> Self {
        Self { viewer, rows: Vec::new(), hidden: Vec::new() }
    }

    /// Adds a holder of a user of this host; without a user, one of another host or an unknown one.
    fn push(&mut self, uid: Option<u32>, mode: Mode, facts: Facts) {
        let seen = uid.map_or(self.viewer.sees_all(), |uid| self.viewer.may_see(uid));
        if seen { self.rows.push(facts) } else { self.hidden.push(mode) }
    }

    /// Adds a process that has the disk open, and does not hold it.
    fn push_user(&mut self, uid: u32, facts: Facts) {
        if self.viewer.may_see(uid) {
            self.rows.push(facts);
        }
    }

    fn finish(self) -> Vec<Facts> {
        let Self { mut rows, hidden, .. } = self;
        rows.extend(redact::strongest(hidden.into_iter()).map(facts::of_hidden));
        rows
    }
}

async fn told(front: &Front, call: &Call<'_>, locks: Vec<Lock>) -> Result<Vec<Facts>, Error> {
    all(front, call, locks, Others::default()).await
}

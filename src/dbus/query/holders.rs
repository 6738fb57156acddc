//! The holders of a disk or a lease: from the lock table, and from the kernel if the table has
//! none.

use std::sync::Arc;

use std::iter;

use crate::auth::action::{Action, Details};
use crate::auth::authorizer::Call;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::dbus::error::redaction::strongest_mode;
use crate::dbus::reply::dictionary::{self, Dictionary};
use crate::dbus::request::acquire::{resolve, wanted_file};
use crate::dbus::request::authorize::visible_locks;
use crate::inspector::Requester;
use crate::lock::acquire::probe::{self, FindOthers, Probe};
use crate::lock::descriptor::received::Received;
use crate::lock::model::disk_path::{DiskPath, Resource};
use crate::lock::model::lease_name::LeaseName;
use crate::lock::model::process_search::Search;
use crate::lock::model::refusal::{ForeignHolder, Holder};
use crate::lock::resolve::{Identify, Target, Wanted};
use crate::lock::{Lock, Mode};
use crate::privacy::Viewer;
use crate::service::process::search::{NameProcesses, Named, is_known};
use crate::service::report::describe::{HolderUsers, ProcessUsers};
use crate::service::verify::name_states::NameQuestion;

/// Looks up the holders of a name. The name is resolved only for a caller that may lock by name;
/// for others the string is compared with the names in the lock table. No dialog is shown in either
/// case.
///
/// # Errors
///
/// `InvalidArgs`; the errors of the resolution.
pub(crate) async fn find_by_name(
    context: &Context,
    call: &Call<'_>,
    name: &str,
) -> Result<Vec<Dictionary>, Error> {
    let named = visible_locks(call, context.service.locks_named(name));
    let resource = match Resource::parse(name) {
        Ok(resource) => resource,
        // A disk that was passed as a descriptor may be listed by a name that is no path.
        Err(_) if !named.is_empty() => return encode_owners(context, call, named).await,
        Err(error) => return Err(error.into()),
    };
    let details = Details::from([("resource", name)]);
    let has_parent_components =
        matches!(&resource, Resource::Disk(path) if path.has_parent_component());
    let may_resolve = (call.is_privileged() || !has_parent_components)
        && call.is_authorized(Action::AcquireByName, &details).await;
    if !may_resolve {
        if !named.is_empty() {
            context.service.inspection().check_unresolved(&call.caller.process, name).await?;
        }
        return encode_owners(context, call, named).await;
    }
    let found = match resource {
        Resource::Lease(lease) => find_by_lease(context, call, lease).await,
        Resource::Disk(path) => find_by_path(context, call, path, &named).await,
    };
    match found {
        // In another mount namespace, the file that is listed by this name may be another than the
        // caller's.
        Err(error) if error.is_foreign_namespace() => Err(error),
        // A privileged caller receives the error, unless locks are listed by this name: then its
        // file was deleted, moved, or replaced by something that is no disk. A caller that polkit's
        // rules allow certain names receives the owners in the table: an error would disclose the
        // target of a link.
        Err(error) if call.is_privileged() && named.is_empty() => Err(error),
        Ok(holders) => Ok(holders),
        Err(_) => encode_owners(context, call, named).await,
    }
}

/// Looks up the holders of a descriptor. It needs no authorization, since the caller has the file
/// open.
///
/// # Errors
///
/// `NotLockable` for a descriptor that is neither a file nor a block device.
pub(crate) async fn find_by_descriptor(
    context: &Context,
    call: &Call<'_>,
    file: Received,
) -> Result<Vec<Dictionary>, Error> {
    let storage = context.service.executor();
    let (file, identity) = storage.run_for(call.uid(), Identify(file)).await??;
    let resolved = resolve(context, call, [wanted_file(context, call, file)]).await;
    match resolved.ok().and_then(|mut targets| targets.pop()) {
        // A probe opens the disk again, and on FUSE the process of an ordinary user would serve
        // that.
        Some(target) if call.is_privileged() || !target.fuse => {
            let named = visible_locks(call, context.service.locks_named(&target.name));
            find_by_target(context, call, target, &named).await
        }
        // Without a probe, the descriptor still identifies the disk.
        _ => encode_owners(context, call, context.service.locks_on(identity, &[])).await,
    }
}

/// Looks up the holders of a path.
async fn find_by_path(
    context: &Context,
    call: &Call<'_>,
    path: DiskPath,
    named: &[Lock],
) -> Result<Vec<Dictionary>, Error> {
    let targets = resolve(context, call, [Wanted::Path(path)]).await?;
    match targets.into_iter().next() {
        Some(target) => find_by_target(context, call, target, named).await,
        None => Ok(Vec::new()),
    }
}

/// Looks up the holders of a lease.
async fn find_by_lease(
    context: &Context,
    call: &Call<'_>,
    lease: LeaseName,
) -> Result<Vec<Dictionary>, Error> {
    let name = lease.as_str().to_owned();
    let probed = context.service.lockspaces().probe_lease(&call.caller.process, lease).await?;
    let (locks, reserved, foreign) = probed;
    let others = Others { name, reserved, foreign, ..Others::default() };
    encode_holders(context, call, locks, others).await
}

/// Looks up the holders of the disk to which a name leads, and of the disks to which it led when
/// the locks `named` were granted.
async fn find_by_target(
    context: &Context,
    call: &Call<'_>,
    target: Target,
    named: &[Lock],
) -> Result<Vec<Dictionary>, Error> {
    let (storage, host) = (context.service.executor(), context.service.host());
    context.service.renew_stacks_for_query().await;
    let mut locks = context.service.locks_on(target.identity, &target.occupies());
    let reserved = context.service.reserved_holders(target.identity, &target.occupies());
    let name = target.name.clone();
    let others = if locks.iter().all(|lock| lock.want.mode == Mode::None) {
        // A lock of mode `none` is only recorded, and blocks no other.
        match storage.run_for(call.uid(), Probe { target, host }).await?? {
            probe::Others::Hold(foreign) => {
                Others { name, foreign: Some(*foreign), ..Others::default() }
            }
            probe::Others::Use(users) => Others { name, users: Some(users), ..Others::default() },
        }
    } else {
        let held = context.service.held(&locks);
        let beside = FindOthers { target, held, host };
        let (foreign, users) = storage.run_for(call.uid(), beside).await?;
        Others { name, foreign, is_shared: true, users: Some(users), ..Others::default() }
    };
    for lock in named {
        if locks.iter().all(|other| other.id != lock.id) {
            locks.push(lock.clone());
        }
    }
    encode_holders(context, call, locks, Others { reserved, ..others }).await
}

/// The users of a disk or a lease besides the owners that hold a lock on it.
#[derive(Debug, Default)]
struct Others {
    /// The name of the disk or the lease.
    name: String,
    /// Owners for which it is reserved.
    reserved: Vec<Holder>,
    /// A program or host that holds a lock on it.
    foreign: Option<ForeignHolder>,
    /// The foreign holder shares the disk with owners. It is reported only if it was identified.
    is_shared: bool,
    /// The search for processes that have the disk open.
    users: Option<Search>,
}

/// Encodes the owners that hold a disk, then the foreign holders, then the processes that have it
/// open.
async fn encode_holders(
    context: &Context,
    call: &Call<'_>,
    locks: Vec<Lock>,
    others: Others,
) -> Result<Vec<Dictionary>, Error> {
    let (service, storage) = (context.service.clone(), context.service.executor());
    let (mut holders, host) = (service.holders(&locks), service.host_name());
    let lifelines = service.lifelines_of(&holders, |_| true);
    let Others { name, reserved, foreign, is_shared, users } = others;
    holders.extend(reserved);
    let (requester, pids) =
        (Requester::User(call.uid()), holders.iter().map(|holder| holder.pid).collect());
    let naming = NameProcesses {
        inspection: Arc::clone(service.inspection()),
        requester,
        foreign,
        users,
        bound: pids,
        lifelines: lifelines.inodes(),
    };
    let named = naming.run().await?;
    let Named { foreign, mut users, bound, lifelines: keepers } = named;
    lifelines.add_to(keepers, &mut holders);
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
    // The owners for which it is reserved follow the owners that hold a lock.
    let states = states.map(Some).chain(iter::repeat(None));
    let owners = named.into_iter().zip(programs).zip(states);
    let mut rows = VisibleRows::new(viewer);
    for (((holder, user), program), state) in owners {
        let mut row = dictionary::encode_holder(&holder, user, program, &host);
        if let Some((state, conflict)) = state {
            dictionary::insert_name_state(&mut row, state);
            dictionary::insert_conflict(&mut row, conflict);
        }
        rows.push_holder(Some(holder.owner.uid), holder.mode, row);
    }
    let foreign = foreign.filter(|foreign| !is_shared || foreign.is_named());
    if let Some(foreign) = foreign {
        let mode = foreign.mode;
        let held_as = |mut row: Dictionary| {
            dictionary::insert_held_as(&mut row, mode.as_str(), &name);
            row
        };
        let is_recorded = !foreign.recorded.is_empty();
        for record in &foreign.recorded {
            let row = held_as(dictionary::encode_record(record));
            rows.push_holder(None, record.entry.mode, row);
        }
        let processes = foreign.processes;
        let (is_named, more) = (!processes.named.is_empty(), processes.more > 0);
        for (process, user) in storage.run(ProcessUsers(processes)).await? {
            users.leave_out(|user| user.pid == process.pid);
            let row = dictionary::encode_process(&process, "process", user, &host);
            rows.push_holder(Some(process.uid), mode, held_as(row));
        }
        if !is_recorded && !is_named || more {
            rows.push_holder(None, mode, held_as(dictionary::encode_unknown()));
        }
        if users.named.is_empty() {
            users = foreign.users;
        }
    }
    users.leave_out(|user| is_known(user, &holders));
    for (process, user) in storage.run(ProcessUsers(users)).await? {
        let mode = process.mode.unwrap_or(Mode::Shared).as_str();
        let mut row = dictionary::encode_process(&process, "opener", user, &host);
        dictionary::insert_held_as(&mut row, mode, &name);
        rows.push_opener(process.uid, row);
    }
    Ok(rows.finish())
}

/// The rows that a viewer may see. All hidden holders together become one row, which has only the
/// most restrictive of their modes.
struct VisibleRows {
    viewer: Viewer,
    rows: Vec<Dictionary>,
    hidden: Vec<Mode>,
}

impl VisibleRows {
    fn new(viewer: Viewer) -> Self {
        Self { viewer, rows: Vec::new(), hidden: Vec::new() }
    }

    /// Adds a holder. `uid` is `None` for a holder on another host, and for an unknown one.
    fn push_holder(&mut self, uid: Option<u32>, mode: Mode, row: Dictionary) {
        let is_visible = uid.map_or(self.viewer.sees_all(), |uid| self.viewer.may_see(uid));
        if is_visible { self.rows.push(row) } else { self.hidden.push(mode) }
    }

    /// Adds a process that has the disk open, and does not hold it.
    fn push_opener(&mut self, uid: u32, row: Dictionary) {
        if self.viewer.may_see(uid) {
            self.rows.push(row);
        }
    }

    /// Adds the row of the hidden holders, and returns all rows.
    fn finish(self) -> Vec<Dictionary> {
        let Self { mut rows, hidden, .. } = self;
        rows.extend(strongest_mode(hidden.into_iter()).map(dictionary::encode_hidden));
        rows
    }
}

/// Encodes the owners that hold these locks.
async fn encode_owners(
    context: &Context,
    call: &Call<'_>,
    locks: Vec<Lock>,
) -> Result<Vec<Dictionary>, Error> {
    encode_holders(context, call, locks, Others::default()).await
}

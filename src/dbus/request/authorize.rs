//! Authorization of requests: of commands to an owner, of the release of another user's locks, and
//! of names.

use std::collections::BTreeSet;

use crate::auth::action::{Action, Details};
use crate::auth::authorizer::Call;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::inspector::Requester;
use crate::lock::model::disk_path::Resource;
use crate::lock::{Lock, Mode, Owner, OwnerId};

/// The VM for which a request is made, as polkit's rules and dialogs show it.
#[derive(Debug, Clone)]
pub(crate) struct VmDetails<'m> {
    name: &'m str,
    uuid: String,
}

impl<'m> VmDetails<'m> {
    /// Returns the details of an owner.
    #[must_use]
    pub(crate) fn new(owner: OwnerId, name: &'m str) -> Self {
        Self { name, uuid: owner.uuid.to_string() }
    }

    /// Returns the details of a request that concerns no resource.
    #[must_use]
    pub(crate) fn details(&self) -> Details<'_> {
        Details::from([("vm", self.name), ("uuid", self.uuid.as_str())])
    }

    /// Returns the details of a request for a lock.
    #[must_use]
    pub(crate) fn with_resource<'d>(&'d self, resource: &'d str, mode: Mode) -> Details<'d> {
        let mut details = self.details();
        details.extend([("resource", resource), ("mode", mode.as_str())]);
        details
    }
}

/// Authorizes a command to an owner. An owner of another user needs `manage-foreign`.
///
/// # Errors
///
/// `NoSuchOwner`; the errors of [`Call::authorize`].
pub(crate) async fn authorize_owner(
    context: &Context,
    call: &Call<'_>,
    id: OwnerId,
) -> Result<Owner, Error> {
    let owner = context.owner(id)?;
    if call.uid() != id.uid {
        let vm = VmDetails::new(id, &owner.name);
        call.authorize(Action::ManageForeign, &vm.details()).await?;
    }
    Ok(owner)
}

/// Authorizes the release of all locks of an owner. For an owner of another user, each lock needs
/// `release-foreign`. Returns the locks that were authorized.
///
/// # Errors
///
/// `NoSuchOwner`; the errors of [`Call::authorize`].
pub(crate) async fn authorize_release_all(
    context: &Context,
    call: &Call<'_>,
    id: OwnerId,
) -> Result<BTreeSet<u64>, Error> {
    if context.owner(id)?.locks.is_empty() {
        authorize_owner(context, call, id).await?;
    }
    // Polkit may take minutes, and the owner may acquire locks meanwhile: these are authorized,
    // too. For a lock that is acquired after the last check the service refuses the request.
    let mut authorized = BTreeSet::new();
    loop {
        let owner = context.owner(id)?;
        let new = &owner.locks - &authorized;
        if new.is_empty() || call.uid() == id.uid {
            return Ok(authorized);
        }
        authorize_release(context, call, &owner, new.iter().copied()).await?;
        authorized.extend(new);
    }
}

/// Authorizes the release of these locks of another user's owner, one by one.
///
/// # Errors
///
/// The errors of [`Call::authorize`].
pub(crate) async fn authorize_release(
    context: &Context,
    call: &Call<'_>,
    owner: &Owner,
    locks: impl IntoIterator<Item = u64>,
) -> Result<(), Error> {
    let vm = VmDetails::new(owner.id, &owner.name);
    let holder = format!("{} of uid {}", owner.name, owner.id.uid);
    let locks = locks.into_iter().filter_map(|lock| context.service.lock(lock));
    // A lock of another owner needs no authorization: the service will not find it.
    for lock in locks.filter(|lock| lock.owner == owner.id) {
        let mut details = vm.with_resource(&lock.want.resource, lock.want.mode);
        details.insert("holder", holder.as_str());
        call.authorize(Action::ReleaseForeign, &details).await?;
    }
    Ok(())
}

/// Authorizes the use of a name, before any file is touched.
///
/// # Errors
///
/// `InvalidArgs` for a path with `..`, unless the caller is privileged; the errors of
/// [`Call::authorize`], with the holders of the resource that the caller may see.
pub(crate) async fn authorize_name<'d>(
    context: &Context,
    call: &Call<'_>,
    resource: &'d Resource,
    details: impl FnOnce(&'d str) -> Details<'d>,
) -> Result<(), Error> {
    reject_parent_components(call, resource)?;
    let name = resource.as_str();
    match call.authorize(Action::AcquireByName, &details(name)).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let locks = context.service.locks_named(name);
            Err(with_holders(context, call, error.into(), name, locks).await)
        }
    }
}

/// Rejects a path with `..`, unless the caller is privileged: polkit decides about the string, and
/// the path could lead elsewhere.
fn reject_parent_components(call: &Call<'_>, resource: &Resource) -> Result<(), Error> {
    match resource {
        Resource::Disk(path) if !call.is_privileged() && path.has_parent_component() => {
            let shown = path.shown();
            Err(Error::invalid(format!("path '{shown}' has '..' in it, which needs root")))
        }
        // The name of a lease never contains `..`.
        Resource::Disk(_) | Resource::Lease(_) => Ok(()),
    }
}

/// Appends to a refusal the owners that hold the resource, as far as the caller may see them.
/// `FindHolders` discloses the same owners without authorization.
pub(crate) async fn with_holders(
    context: &Context,
    call: &Call<'_>,
    error: Error,
    resource: &str,
    locks: Vec<Lock>,
) -> Error {
    let locks = visible_locks(call, locks);
    match context.service.describe_holders(Requester::User(call.uid()), resource, &locks).await {
        Some(holders) => error.with_detail(holders),
        None => error,
    }
}

/// Returns the locks among these that the caller may see.
pub(crate) fn visible_locks(call: &Call<'_>, mut locks: Vec<Lock>) -> Vec<Lock> {
    let viewer = call.viewer();
    locks.retain(|lock| viewer.may_see(lock.owner.uid));
    locks
}

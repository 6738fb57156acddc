//! From what a caller asks for to what the service may lock: words, proof, resolution.
//!
//! 1. The words are checked. That touches nothing.
//! 2. For every name the gate is asked about the string, before any file is touched: who may not
//!    lock by name does not learn whether the file exists.
//! 3. What is named is found, what was passed is looked at. For callers whom polkit judged, a name
//!    that leads through a symbolic link is refused, wherever it leads, and so is one with `..` in
//!    it: the judgement was about the string, and what a rule allows below one directory must
//!    not become a way to touch, or to learn of, what lies elsewhere.
//! 4. For what was passed, the gate is asked according to how it was opened.
//! 5. The caller is still there.

use std::sync::Arc;

use super::error::Error;
use super::front::Front;
use super::holders;
use crate::auth::action::Action;
use crate::auth::action::Details;
use crate::auth::authorizer::Call;
use crate::lock::Mode;
use crate::lock::in_use::InUse;
use crate::lock::naming::Naming;
use crate::lock::open::Links;
use crate::lock::passed::Sender;
use crate::lock::received::Received;
use crate::lock::resolve::{Access, Resolve, Target, Wanted};
use crate::lock::resource::Resource;
use crate::service::{Ask, Disk, ResolveFor};

/// The most descriptors in one call; the system bus lets no more through by default.
const FILES_MAX: usize = 16;

/// For whom something is asked, as a dialog tells of him.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine<'m> {
    /// The machine's name.
    pub vm: &'m str,
    /// Its UUID.
    pub uuid: &'m str,
}

impl<'m> Machine<'m> {
    /// What polkit is told about a deed that is about no disk.
    #[must_use]
    pub(super) fn details(self) -> Details<'m> {
        Details::from([("vm", self.vm), ("uuid", self.uuid)])
    }

    fn about(self, resource: &'m str, mode: Mode) -> Details<'m> {
        let mut details = self.details();
        details.extend([("resource", resource), ("mode", mode.as_str())]);
        details
    }
}

/// Checks the words of resources: step 1.
///
/// # Errors
///
/// `InvalidArgs`, `LimitsExceeded`.
pub(super) fn parse(
    front: &Front,
    resources: &[(String, String)],
    files: usize,
) -> Result<Vec<(Resource, Mode)>, Error> {
    let limit = front.service.settings().limits.resources_per_call;
    if resources.len() + files > limit {
        return Err(Error::too_much(format!(
            "{} resources in one call; the limit is {limit}",
            resources.len() + files
        )));
    }
    if files > FILES_MAX {
        return Err(Error::too_much(format!(
            "{files} descriptors in one call; the limit is {FILES_MAX}"
        )));
    }
    let words =
        |(name, mode): &(String, String)| Ok((Resource::parse(name)?, mode.parse::<Mode>()?));
    resources.iter().map(words).collect::<Result<_, crate::lock::Error>>().map_err(Error::from)
}

/// Steps 2 to 5.
///
/// # Errors
///
/// `AccessDenied` and the like, and what resolving fails with.
pub(super) async fn find(
    front: &Front,
    call: &Call<'_>,
    machine: Machine<'_>,
    resources: Vec<(Resource, Mode)>,
    files: Vec<(Received, Mode)>,
    in_use: InUse,
) -> Result<Vec<Ask>, Error> {
    for (resource, mode) in &resources {
        ask_by_name(front, call, resource, |name| machine.about(name, *mode)).await?;
    }
    // A lease is found on the way: nobody has to be asked about what it leads to.
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
        wanted.push(passed(front, call, file));
        modes.push(mode);
    }
    let disks = if call.is_privileged() {
        // Nor about these: they can be found on the way, too.
        requests(front, call, wanted).into_iter().map(Disk::Wanted).collect()
    } else {
        find_disks(front, call, machine, wanted, &modes).await?
    };
    let settings = front.service.settings();
    let named_by = Some(Arc::clone(&call.caller.process));
    let mut disks = disks.into_iter().zip(modes).map(|(disk, mode)| Ask {
        named_by: named_by.clone(),
        disk,
        in_use,
        with_lease: settings.require_lease_for_disks && mode == Mode::Exclusive,
        mode: if settings.only_record_disks { Mode::None } else { mode },
    });
    let mut asks = Vec::new();
    for lease in leases {
        asks.extend(match lease {
            Some((lease, mode)) => {
                let (disk, named_by) = (Disk::Lease(lease), named_by.clone());
                Some(Ask { disk, mode, with_lease: false, in_use, named_by })
            }
            None => disks.next(),
        });
    }
    asks.extend(disks);
    Ok(asks)
}

/// Steps 3 to 5 for disks, of a caller whom polkit judges.
async fn find_disks(
    front: &Front,
    call: &Call<'_>,
    machine: Machine<'_>,
    wanted: Vec<Wanted>,
    modes: &[Mode],
) -> Result<Vec<Disk>, Error> {
    let requests = requests(front, call, wanted);
    let lookups: Vec<Option<Resolve>> = requests.iter().map(Resolve::again).collect();
    let targets = perform(front, call, requests).await?;
    for (target, mode) in targets.iter().zip(modes) {
        if let Some(access) = target.shown {
            ask_by_descriptor(front, call, machine, target, access, *mode).await?;
        }
    }
    if !call.caller.is_connected() {
        return Err(crate::auth::Error::CallerGone.into());
    }
    let found = targets.into_iter().zip(lookups);
    Ok(found.map(|(target, lookup)| Disk::Found(Box::new(target), lookup.map(Box::new))).collect())
}

/// Step 2 for one name.
///
/// # Errors
///
/// `AccessDenied` and the like.
pub(super) async fn ask_by_name<'d>(
    front: &Front,
    call: &Call<'_>,
    resource: &'d Resource,
    details: impl FnOnce(&'d str) -> Details<'d>,
) -> Result<(), Error> {
    refuse_climbing(call, resource)?;
    let name = resource.as_str();
    match call.authorize(Action::AcquireByName, &details(name)).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let locks = front.service.locks_named(name);
            Err(holders::with_holders(front, call, error.into(), name, locks).await)
        }
    }
}

/// Refuses a name that climbs with `..` to whoever is judged by it.
fn refuse_climbing(call: &Call<'_>, resource: &Resource) -> Result<(), Error> {
    match resource {
        Resource::Disk(path) if !call.is_privileged() && path.climbs() => {
            let shown = path.shown();
            Err(Error::invalid(format!("path '{shown}' has '..' in it, which needs root")))
        }
        // Of a lease, nobody's climbs.
        Resource::Disk(_) | Resource::Lease(_) => Ok(()),
    }
}

/// The disk that a caller has passed a descriptor of.
pub(super) fn passed(front: &Front, call: &Call<'_>, file: Received) -> Wanted {
    let trusted = call.is_privileged() || front.service.settings().allow_fuse;
    Wanted::File(file, Sender { uid: call.uid(), trusted })
}

/// Step 3.
///
/// # Errors
///
/// What resolving the first that can't be found fails with.
pub(super) async fn resolve(
    front: &Front,
    call: &Call<'_>,
    wanted: impl IntoIterator<Item = Wanted>,
) -> Result<Vec<Target>, Error> {
    perform(front, call, requests(front, call, wanted)).await
}

async fn perform(
    front: &Front,
    call: &Call<'_>,
    requests: Vec<Resolve>,
) -> Result<Vec<Target>, Error> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let (service, caller) = (front.service.clone(), Arc::clone(&call.caller.process));
    let request = ResolveFor { service, caller, requests };
    Ok(front.service.storage().run_for(call.uid(), request).await??)
}

fn requests(
    front: &Front,
    call: &Call<'_>,
    wanted: impl IntoIterator<Item = Wanted>,
) -> Vec<Resolve> {
    let naming = Naming::Rules(front.service.settings().lockspaces);
    let links = if call.is_privileged() { Links::Follow } else { Links::Refuse };
    let request = |wanted| Resolve { wanted, naming: naming.clone(), links };
    wanted.into_iter().map(request).collect()
}

/// Step 4 for a descriptor: who can write a file may keep others from it; who can only read it may
/// do so with a shared lock if it is his, since anybody could else block everybody's machine.
async fn ask_by_descriptor(
    front: &Front,
    call: &Call<'_>,
    machine: Machine<'_>,
    target: &Target,
    access: Access,
    mode: Mode,
) -> Result<(), Error> {
    if target.fuse && !call.is_privileged() && !front.service.settings().allow_fuse {
        let why = if target.path().is_some() {
            "it is on FUSE, which 'allow_fuse' does not allow"
        } else {
            "it may be on FUSE, which 'allow_fuse' does not allow: its name is not visible to vmlockd"
        };
        return Err(crate::lock::Error::not_lockable(&target.name, why).into());
    }
    let proven = match (access, mode) {
        (Access::ReadWrite, _) => true,
        (Access::Read, Mode::Shared) => target.uid == call.uid(),
        (Access::Read, Mode::Exclusive | Mode::None) => false,
    };
    let action = if proven { Action::AcquireByDescriptor } else { Action::AcquireByName };
    match call.authorize(action, &machine.about(&target.name, mode)).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let locks = front.service.locks_on(target.identity, &target.occupies());
            Err(holders::with_holders(front, call, error.into(), &target.name, locks).await)
        }
    }
}

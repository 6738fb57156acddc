//! Who holds a disk: from the table, and from the kernel where the table knows nobody.

use std::os::fd::OwnedFd;

use super::error::Error;
use super::facts::{self, Facts};
use super::front::Front;
use crate::auth::deed::Action;
use crate::auth::gate::Call;
use crate::auth::polkit::Details;
use crate::lock::Lock;
use crate::lock::identity::Identity;
use crate::lock::resolve::{Identify, Target, Wanted};
use crate::lock::resource::DiskPath;
use crate::lock::take::Probe;
use crate::service::describe::{HolderUsers, UserName};

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
    let path = DiskPath::parse(name)?;
    let details = Details::from([("resource", name)]);
    let may = (call.passes() || !path.climbs()) && call.may(Action::AcquireByName, &details).await;
    if !may {
        return told(front, front.service.locks_named(name)).await;
    }
    match claims::resolve(front, call, [Wanted::Path(path)]).await {
        Ok(targets) => match targets.into_iter().next() {
            Some(target) => of_target(front, target).await,
            None => Ok(Vec::new()),
        },
        // Root is told what is amiss. Who may only name what a rule allows is told of the table:
        // what lies behind a link is none of his business.
        Err(error) if call.passes() => Err(error),
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
        _ => told(front, on(front, identity)).await,
    }
}

fn on(front: &Front, identity: Identity) -> Vec<Lock> {
    front.service.locks_on(identity)
}

async fn of_target(front: &Front, target: Target) -> Result<Vec<Facts>, Error> {
    let locks = on(front, target.identity);
    if !locks.is_empty() {
        return told(front, locks).await;
    }
    let storage = front.service.storage();
    let Some(stranger) = storage.run(Probe(target)).await?? else {
        return Ok(Vec::new());
    };
    let uid = stranger.process.as_ref().map_or(0, |process| process.uid);
    let user = storage.run(UserName(uid)).await?;
    Ok(vec![facts::of_stranger(&stranger, user)])
}

async fn told(front: &Front, locks: Vec<Lock>) -> Result<Vec<Facts>, Error> {
    let holders = front.service.holders(&locks);
    let named = front.service.storage().run(HolderUsers(holders)).await?;
    Ok(named.into_iter().map(|(holder, user)| facts::of_holder(&holder, user)).collect())
}

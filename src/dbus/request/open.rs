//! The opening of an owner, with the locks that it holds from the start.

use zbus::OwnedObjectPath;

use super::acquire::{authorize_and_resolve, parse_resources, roll_back_if_disconnected};
use super::authorize::VmDetails;
use super::options::{Options, Timeout};
use crate::auth::authorizer::Call;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::lock::disk::in_use::InUse;
use crate::lock::model::loss_action::OnLost;
use crate::lock::{self, OwnerId};
use crate::paths;
use crate::service::{NewAnchor, Opening, OwnerRelease};

/// The options of the methods that open an owner.
pub(crate) struct OpenOptions {
    resources: Vec<(String, String)>,
    timeout: Timeout,
    in_use: InUse,
    on_lost: OnLost,
    why: String,
}

impl OpenOptions {
    /// Removes the options from `options`, and parses them.
    ///
    /// # Errors
    ///
    /// `InvalidArgs`.
    pub(crate) fn parse(options: &mut Options) -> Result<Self, Error> {
        let (timeout, in_use, on_lost) =
            (options.timeout()?, options.in_use()?, options.on_lost()?);
        let (resources, why) = (options.resources()?, options.why()?);
        Ok(Self { resources, timeout, in_use, on_lost, why })
    }

    /// Opens an owner and acquires its first locks.
    ///
    /// # Errors
    ///
    /// See [`acquire`](super::acquire::acquire); `OwnerExists`. No owner is opened and no lock is
    /// acquired then.
    pub(crate) async fn open(
        self,
        context: &Context,
        call: &Call<'_>,
        (id, name): (OwnerId, &str),
        anchors: Vec<NewAnchor>,
    ) -> Result<OwnedObjectPath, Error> {
        let Self { resources, timeout, in_use, on_lost, why } = self;
        let resources = parse_resources(context, &resources, 0)?;
        let vm = VmDetails::new(id, name);
        let requests =
            authorize_and_resolve(context, call, &vm, resources, Vec::new(), in_use).await?;
        let name = name.to_owned();
        let opening =
            Opening { id, name, why, front: lock::Front::Dbus, on_lost, anchors, requests };
        let privacy = &context.auth.privacy;
        privacy.follow_new(&call.caller.name, id);
        let opened = context.service.open(opening, timeout.start(call)).await;
        if opened.is_err() && context.service.owner(id).is_none() {
            privacy.unfollow(&call.caller.name, id);
        }
        let granted = opened?;
        let locks = granted.fresh.iter().copied().collect();
        let request = OwnerRelease { owner: id, authorized: &locks, by: id.uid, force: true };
        let rollback = || context.service.close(request);
        roll_back_if_disconnected(context, call, &granted, rollback).await?;
        Ok(paths::owner(id))
    }
}

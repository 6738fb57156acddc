//! `Resolve` and `ResolveFile`: what would be locked for a disk or a lease.

use crate::auth::action::Details;
use crate::auth::authorizer::Call;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::dbus::reply::dictionary::{Dictionary, encode_lease, encode_target};
use crate::dbus::request::acquire::{resolve, wanted_file};
use crate::dbus::request::authorize::authorize_name;
use crate::lock::descriptor::received::Received;
use crate::lock::model::disk_path::Resource;
use crate::lock::resolve::Wanted;

/// Resolves a name. It needs the same authorization as to lock by name.
///
/// # Errors
///
/// `InvalidArgs`; the errors of [`Call::authorize`] and of the resolution.
pub(crate) async fn resolve_name(
    context: &Context,
    call: &Call<'_>,
    name: &str,
) -> Result<Dictionary, Error> {
    let resource = Resource::parse(name)?;
    let details = |name| Details::from([("resource", name)]);
    authorize_name(context, call, &resource, details).await?;
    match resource {
        Resource::Lease(lease) => {
            let key =
                context.service.lockspaces().resolve_lease(&call.caller.process, lease).await?;
            Ok(encode_lease(&key))
        }
        Resource::Disk(path) => resolve_disk(context, call, Wanted::Path(path)).await,
    }
}

/// Resolves a descriptor. It needs no authorization, since the caller has the file open.
///
/// # Errors
///
/// The errors of the resolution.
pub(crate) async fn resolve_descriptor(
    context: &Context,
    call: &Call<'_>,
    file: Received,
) -> Result<Dictionary, Error> {
    resolve_disk(context, call, wanted_file(context, call, file)).await
}

async fn resolve_disk(
    context: &Context,
    call: &Call<'_>,
    wanted: Wanted,
) -> Result<Dictionary, Error> {
    let targets = resolve(context, call, [wanted]).await?;
    let only_record = context.service.settings().only_record_disks;
    Ok(targets.first().map(|target| encode_target(target, only_record)).unwrap_or_default())
}

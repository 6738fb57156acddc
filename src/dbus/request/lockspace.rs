//! Lockspaces and leases that clients create and remove. As for all names, the string is authorized
//! before a file is touched.

use zbus::OwnedObjectPath;

use crate::auth::action::{Action, Details};
use crate::auth::authorizer::Call;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::lock::model::disk_path::DiskPath;
use crate::lock::model::lease_name::LeaseName;
use crate::lock::path::open::Links;
use crate::lock::text::escape::shown;
use crate::paths;

/// Creates a lockspace.
///
/// # Errors
///
/// `InvalidArgs`; the errors of [`Call::authorize`] and of the service.
pub(crate) async fn create(
    context: &Context,
    call: &Call<'_>,
    directory: &str,
) -> Result<OwnedObjectPath, Error> {
    let path = authorize_directory(call, directory).await?;
    let links = if call.is_privileged() { Links::Follow } else { Links::Refuse };
    let caller = &call.caller.process;
    let kind =
        context.service.lockspaces().create(caller, path.as_path().to_owned(), links).await?;
    Ok(paths::lockspace(kind))
}

/// Removes a lockspace.
///
/// # Errors
///
/// `InvalidArgs`; the errors of [`Call::authorize`] and of the service.
pub(crate) async fn remove(
    context: &Context,
    call: &Call<'_>,
    directory: &str,
) -> Result<(), Error> {
    let path = authorize_directory(call, directory).await?;
    let caller = &call.caller.process;
    Ok(context.service.lockspaces().remove(caller, path.as_path().to_owned()).await?)
}

/// Parses the name of a lease, and authorizes the caller to create or remove the lease.
///
/// # Errors
///
/// `InvalidArgs`; the errors of [`Call::authorize`].
pub(crate) async fn authorize_lease(call: &Call<'_>, name: &str) -> Result<LeaseName, Error> {
    let lease = LeaseName::parse(name).ok_or_else(|| {
        let name = shown(&name.chars().take(80).collect::<String>());
        Error::invalid(format!(
            "'{name}' is not the name of a lease, which has the form lease:DIRECTORY/KEY"
        ))
    })??;
    authorize(call, name).await?;
    Ok(lease)
}

/// Parses a directory, and authorizes the caller to create or remove a lockspace there.
async fn authorize_directory(call: &Call<'_>, directory: &str) -> Result<DiskPath, Error> {
    let path = DiskPath::parse(directory)?;
    if path.has_parent_component() {
        return Err(Error::invalid(format!("path '{}' has '..' in it", path.shown())));
    }
    authorize(call, directory).await?;
    Ok(path)
}

async fn authorize(call: &Call<'_>, resource: &str) -> Result<(), Error> {
    let details = Details::from([("resource", resource)]);
    Ok(call.authorize(Action::ManageLockspaces, &details).await?)
}

//! Lockspaces and leases that callers have made and removed.
//!
//! As with whatever is named: polkit is asked about the string, and then a file is touched.

use zbus::OwnedObjectPath;

use super::error::Error;
use super::front::Front;
use crate::auth::action::Action;
use crate::auth::action::Details;
use crate::auth::authorizer::Call;
use crate::lock::lease::LeaseName;
use crate::lock::open::Links;
use crate::lock::printable::shown;
use crate::lock::resource::DiskPath;
use crate::paths;

/// Makes a lockspace.
///
/// # Errors
///
/// `InvalidArgs`, `AccessDenied` and the like; what making it fails with.
pub(super) async fn create(
    front: &Front,
    call: &Call<'_>,
    directory: &str,
) -> Result<OwnedObjectPath, Error> {
    let path = self::directory(call, directory).await?;
    let links = if call.is_privileged() { Links::Follow } else { Links::Refuse };
    let caller = &call.caller.process;
    let kind = front.service.create_lockspace(caller, path.as_path().to_owned(), links).await?;
    Ok(paths::lockspace(kind))
}

/// Removes a lockspace.
///
/// # Errors
///
/// `InvalidArgs`, `AccessDenied` and the like; what keeps it from being removed.
pub(super) async fn remove(front: &Front, call: &Call<'_>, directory: &str) -> Result<(), Error> {
    let path = self::directory(call, directory).await?;
    let caller = &call.caller.process;
    Ok(front.service.remove_lockspace(caller, path.as_path().to_owned()).await?)
}

/// The name of a lease that the caller may make or remove.
///
/// # Errors
///
/// `InvalidArgs`, `AccessDenied` and the like.
pub(super) async fn lease(call: &Call<'_>, name: &str) -> Result<LeaseName, Error> {
    let lease = LeaseName::parse(name).ok_or_else(|| {
        let name = shown(&name.chars().take(80).collect::<String>());
        Error::invalid(format!(
            "'{name}' is not the name of a lease, which has the form lease:DIRECTORY/KEY"
        ))
    })??;
    ask(call, name).await?;
    Ok(lease)
}

/// A directory that the caller may have for a lockspace, or take away.
async fn directory(call: &Call<'_>, directory: &str) -> Result<DiskPath, Error> {
    let path = DiskPath::parse(directory)?;
    if path.climbs() {
        return Err(Error::invalid(format!("path '{}' has '..' in it", path.shown())));
    }
    ask(call, directory).await?;
    Ok(path)
}

async fn ask(call: &Call<'_>, resource: &str) -> Result<(), Error> {
    let details = Details::from([("resource", resource)]);
    Ok(call.authorize(Action::ManageLockspaces, &details).await?)
}

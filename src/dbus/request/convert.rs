//! The conversion of a lock: upgrade to exclusive mode, downgrade to shared mode.

use super::acquire::{resolve, roll_back_if_disconnected, wanted_file};
use super::authorize::{VmDetails, authorize_owner};
use super::options::{Options, RawOptions, Timeout};
use crate::auth::action::Action;
use crate::auth::authorizer::Call;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::lock::descriptor::received::Received;
use crate::lock::disk::in_use::InUse;
use crate::lock::resolve::Access;
use crate::lock::text::escape::shown;
use crate::lock::{self, Lock, Mode, Owner};

/// The options of `Convert`.
#[derive(Debug)]
pub(crate) struct ConvertOptions {
    timeout: Timeout,
    in_use: InUse,
    file: Option<Received>,
}

impl ConvertOptions {
    /// Parses the options.
    ///
    /// # Errors
    ///
    /// `InvalidArgs`.
    pub(crate) fn parse(raw: RawOptions) -> Result<Self, Error> {
        let mut options = Options::new(raw);
        let (timeout, in_use) = (options.timeout()?, options.in_use()?);
        let file = options.descriptor("file")?;
        options.finish()?;
        Ok(Self { timeout, in_use, file })
    }
}

/// Converts a lock to another mode.
///
/// # Errors
///
/// `NoSuchOwner`, `InvalidArgs`, `ResourceChanged`; the errors of [`Call::authorize`] and of the
/// service.
pub(crate) async fn convert(
    context: &Context,
    call: &Call<'_>,
    (lock, owner): (&Lock, &Owner),
    mode: Mode,
    options: ConvertOptions,
) -> Result<(), Error> {
    let ConvertOptions { timeout, in_use, file } = options;
    authorize_owner(context, call, owner.id).await?;
    if lock.want.mode == Mode::None {
        let resource = shown(&lock.want.resource);
        return Err(lock::Error::OnlyRecorded { resource, lock: lock.id }.into());
    }
    if mode == Mode::Exclusive && lock.want.mode != mode {
        authorize_upgrade(context, call, (lock, owner), file).await?;
    }
    let granted = context.service.convert(lock.id, mode, in_use, timeout.start(call)).await?;
    let downgrade = || async {
        let service = &context.service;
        service.convert(lock.id, Mode::Shared, InUse::Allowed, None).await.map(drop)
    };
    roll_back_if_disconnected(context, call, &granted, downgrade).await
}

/// Authorizes an upgrade. It needs a descriptor that is open for writing, at the acquisition or
/// now, or the authorization to lock by name.
async fn authorize_upgrade(
    context: &Context,
    call: &Call<'_>,
    (lock, owner): (&Lock, &Owner),
    file: Option<Received>,
) -> Result<(), Error> {
    let name = &lock.want.resource;
    let vm = VmDetails::new(owner.id, &owner.name);
    let details = vm.with_resource(name, Mode::Exclusive);
    let Some(file) = file else {
        if lock.want.write_shown {
            return Ok(());
        }
        return Ok(call.authorize(Action::AcquireByName, &details).await?);
    };
    let targets = resolve(context, call, [wanted_file(context, call, file)]).await?;
    match targets.first() {
        Some(target) if target.identity == lock.want.identity => {
            let action = match target.shown {
                Some(Access::ReadWrite) => Action::AcquireByDescriptor,
                Some(Access::Read) | None => Action::AcquireByName,
            };
            Ok(call.authorize(action, &details).await?)
        }
        _ => {
            let name = shown(name);
            Err(Error::resource_changed(format!(
                "option 'file' is a descriptor of another disk than {name}"
            )))
        }
    }
}

//! Anchors of an owner that are processes: which process, and whether the caller may bind to it.

use super::authorize::VmDetails;
use crate::auth::action::Action;
use crate::auth::authorizer::Call;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::life::Process;
use crate::service::NewAnchor;

/// Finds the process that has this number in the caller's namespace; 0 is the caller itself.
///
/// # Errors
///
/// `UnixProcessIdUnknown`, `ForeignNamespace`.
pub(crate) async fn find_process(
    context: &Context,
    call: &Call<'_>,
    pid: u32,
) -> Result<Process, Error> {
    Ok(match pid {
        0 => match context.auth.callers.pidfd_of(&call.caller).await {
            Some(pidfd) => Process::from_pidfd(pidfd)?,
            None => Process::from_pid(call.caller.pid.unwrap_or(0))?,
        },
        pid => context.service.inspection().find_process(&call.caller.process, pid).await?,
    })
}

/// Authorizes the caller to bind to a process, and returns the anchor. A process of another user
/// needs `register-process`; one of the caller's user needs `own`, if that is given.
///
/// # Errors
///
/// The errors of [`Call::authorize`]; `UnixProcessIdUnknown` for a process that has ended
/// meanwhile.
pub(crate) async fn authorize_process(
    context: &Context,
    call: &Call<'_>,
    vm: &VmDetails<'_>,
    process: Process,
    own: Option<Action>,
) -> Result<NewAnchor, Error> {
    let (process, identity) = context.service.inspection().identify(call.uid(), process).await?;
    let is_own = identity.belongs_to(call.uid());
    let action = if is_own { own } else { Some(Action::RegisterProcess) };
    if let Some(action) = action {
        call.authorize(action, &vm.details()).await?;
        // A dialog may have been open for minutes.
        process.check_alive()?;
    }
    Ok(NewAnchor::Process(process.with_permission(!is_own)))
}

//! Binding an owner to a process: which one, and whether the caller may.

use super::claims::Machine;
use super::error::Error;
use super::front::Front;
use crate::auth::action::Action;
use crate::auth::authorizer::Call;
use crate::life::Process;
use crate::service::NewAnchor;

/// The process that has this number for the caller; 0 is the caller's own.
///
/// # Errors
///
/// `UnixProcessIdUnknown`; `ForeignNamespace`.
pub(super) async fn by_pid(front: &Front, call: &Call<'_>, pid: u32) -> Result<Process, Error> {
    Ok(match pid {
        0 => match front.gate.callers.pidfd_of(&call.caller).await {
            Some(pidfd) => Process::by_pidfd(pidfd)?,
            None => Process::by_pid(call.caller.pid.unwrap_or(0))?,
        },
        pid => front.service.find_process(&call.caller.process, pid).await?,
    })
}

/// Makes an anchor of a process. Another user's needs `register-process`; the caller's own needs
/// `own`, if anything.
///
/// # Errors
///
/// `AccessDenied` and the like; `UnixProcessIdUnknown` for a process that ended meanwhile.
pub(super) async fn anchor(
    front: &Front,
    call: &Call<'_>,
    machine: Machine<'_>,
    process: Process,
    own: Option<Action>,
) -> Result<NewAnchor, Error> {
    let (process, identity) = front.service.identify(call.uid(), process).await?;
    let is_own = identity.belongs_to(call.uid());
    let action = if is_own { own } else { Some(Action::RegisterProcess) };
    if let Some(action) = action {
        call.authorize(action, &machine.details()).await?;
        // A dialog may have been open for minutes.
        process.check_alive()?;
    }
    Ok(NewAnchor::Process(process.permitted(!is_own)))
}

//! Binding an owner to a process: which one, and whether the caller may.

use std::os::fd::OwnedFd;

use super::claims::Machine;
use super::error::Error;
use super::front::Front;
use crate::auth::deed::Action;
use crate::auth::gate::Call;
use crate::life::Process;
use crate::service::NewAnchor;

/// By number; 0 is the caller's own process.
///
/// # Errors
///
/// `UnixProcessIdUnknown`; `AccessDenied` and the like for another user's process.
pub(super) async fn by_pid(
    front: &Front,
    call: &Call<'_>,
    machine: Machine<'_>,
    pid: u32,
) -> Result<NewAnchor, Error> {
    let process = match pid {
        0 => match front.gate.callers.process_of(&call.caller).await {
            Some(pidfd) => Process::by_pidfd(pidfd)?,
            None => Process::by_pid(call.caller.pid.unwrap_or(0))?,
        },
        pid => Process::by_pid(pid)?,
    };
    check(call, machine, process).await
}

/// By descriptor.
///
/// # Errors
///
/// `InvalidArgs` for what is no process; `AccessDenied` and the like for another user's.
pub(super) async fn by_pidfd(
    call: &Call<'_>,
    machine: Machine<'_>,
    pidfd: OwnedFd,
) -> Result<NewAnchor, Error> {
    check(call, machine, Process::by_pidfd(pidfd)?).await
}

async fn check(
    call: &Call<'_>,
    machine: Machine<'_>,
    process: Process,
) -> Result<NewAnchor, Error> {
    if !process.belongs_to(call.uid())? {
        call.ask(Action::RegisterProcess, &machine.details()).await?;
        // A dialog may have been open for minutes.
        process.check_alive()?;
    }
    Ok(NewAnchor::Process(process))
}

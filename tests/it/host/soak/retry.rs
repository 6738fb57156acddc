//! Results of calls to a service that may crash at any moment.

use tokio::task::yield_now;

use crate::dbus_client::Refused;
use crate::fixture::within;

/// Why a call brought nothing.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The service crashed or could not be started, so the effect of the call is unknown.
    Unanswered,
    /// The service said no.
    Refused(Refused),
}

impl CallError {
    /// Whether it is this refusal.
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused(refused) if refused.name == name)
    }

    /// Whether this owner holds what was asked for.
    pub(crate) fn is_by(&self, uuid: &str) -> bool {
        self.is("LockHeld")
            && matches!(self, Self::Refused(refused) if refused.message.contains(uuid))
    }

    /// Whether others hold what was asked for, and did so for as long as it was waited for.
    pub(crate) fn is_of_others(&self) -> bool {
        ["LockHeld", "WaitTimedOut", "WaitCancelled", "ShuttingDown"]
            .iter()
            .any(|name| self.is(name))
    }
}

/// The errors that the bus sends for a service that does not reply.
const NO_REPLY: [&str; 7] = [
    "DBus.Error.NoReply",
    "DBus.Error.ServiceUnknown",
    "DBus.Error.NameHasNoOwner",
    "DBus.Error.Disconnected",
    "DBus.Error.Spawn.",
    "DBus.Error.TimedOut",
    "systemd1.",
];

/// Waits for an answer.
pub(crate) async fn ask<T>(
    what: &str,
    call: impl Future<Output = zbus::Result<T>>,
) -> Result<T, CallError> {
    within(what, call).await.map_err(|error| {
        let refused = Refused::from(error);
        let is_unanswered = NO_REPLY.iter().any(|name| refused.name.starts_with(name));
        if is_unanswered { CallError::Unanswered } else { CallError::Refused(refused) }
    })
}

/// Repeats a call without side effects until it is answered.
pub(crate) async fn call_until_answered<T, F>(what: &str, mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = zbus::Result<T>>,
{
    let answered = async {
        loop {
            match ask(what, call()).await {
                Ok(answer) => return answer,
                Err(CallError::Unanswered) => yield_now().await,
                Err(CallError::Refused(refused)) => panic!("{what}: {refused:?}"),
            }
        }
    };
    within(what, answered).await
}

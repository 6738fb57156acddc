//! The one place that talks to polkit.
//!
//! The subject is always the caller's bus name: polkit's own documentation calls a process number
//! with a start time broken. Only an answer that says "authorized" is one; an error, a silence, or
//! a caller that leaves meanwhile is a refusal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use zbus::message::Message;
use zbus::{Connection, DBusError as _};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::Error;
use super::caller::Caller;
use super::deed::{Action, Details};

/// How long polkit may take to answer without asking anybody.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a person may take to answer a dialog.
const DIALOG: Duration = Duration::from_secs(300);

/// The connection to polkit.
#[derive(Debug)]
pub struct Polkit {
    /// Weakly: the connection has the objects, and each of those has the gate and so this.
    line: Weak<Connection>,
    questions: AtomicU64,
}

impl Polkit {
    /// Prepares to ask the polkit of this bus, which need not be there yet.
    #[must_use]
    pub fn new(connection: &Arc<Connection>) -> Self {
        Self { line: Arc::downgrade(connection), questions: AtomicU64::new(1) }
    }

    /// Asks whether a caller may do this.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`], [`Error::NoPolkit`], [`Error::Interactive`], [`Error::CallerGone`].
    pub async fn ask(
        &self,
        caller: &mut Caller,
        action: Action,
        details: &Details<'_>,
        interactive: bool,
    ) -> Result<(), Error> {
        let patience = if interactive { DIALOG } else { PATIENCE };
        self.ask_within(patience, caller, action, details, interactive).await
    }

    /// Asks whether a caller may do this. Without an answer in time it may not.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`], [`Error::NoPolkit`], [`Error::Interactive`], [`Error::CallerGone`].
    pub async fn ask_within(
        &self,
        patience: Duration,
        caller: &mut Caller,
        action: Action,
        details: &Details<'_>,
        interactive: bool,
    ) -> Result<(), Error> {
        let deed = || action.describe(details);
        let denied = |why: String| Error::Denied { action, deed: deed(), why };
        let subject = subject(caller).map_err(denied)?;
        let line = self.line.upgrade().ok_or_else(|| denied("disconnected from the bus".into()))?;
        let authority = AuthorityProxy::builder(&line)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(|error| denied(error.to_string()))?;
        let question = self.questions.fetch_add(1, Ordering::Relaxed).to_string();
        let flags = if interactive {
            CheckAuthorizationFlags::ALLOW_USER_INTERACTION
        } else {
            CheckAuthorizationFlags::empty()
        };
        let asked = authority.check_authorization(&subject, action.id(), details, flags, &question);
        let answer = tokio::select! {
            answer = asked => answer.map_err(|error| {
                if is_absent(&error) {
                    Error::NoPolkit { action, deed: deed() }
                } else {
                    denied(format!("cannot query polkit: {error}"))
                }
            })?,
            () = caller.gone() => {
                cancel(&authority, &question).await;
                return Err(Error::CallerGone);
            }
            () = tokio::time::sleep(patience) => {
                cancel(&authority, &question).await;
                return Err(denied(format!("polkit did not respond within {} s", patience.as_secs())));
            }
        };
        if answer.is_authorized {
            Ok(())
        } else if answer.is_challenge && !interactive {
            Err(Error::Interactive { action, deed: deed() })
        } else if answer.is_challenge {
            Err(denied("no authentication agent asked for a password".into()))
        } else {
            Err(denied("polkit refused".into()))
        }
    }
}

/// Whether the bus says that polkit does not run, and that it cannot start it.
fn is_absent(error: &zbus::Error) -> bool {
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.to_string(),
        zbus::Error::FDO(error) => match error.as_ref() {
            zbus::fdo::Error::ZBus(error) => return is_absent(error),
            error => error.name().to_string(),
        },
        _ => return false,
    };
    name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|name| {
        matches!(name, "ServiceUnknown" | "NameHasNoOwner") || name.starts_with("Spawn.")
    })
}

/// The caller's bus name.
fn subject(caller: &Caller) -> Result<Subject, String> {
    // A subject is made of the sender of a message.
    let message = Message::method_call("/", "Subject").sender(caller.name.as_ref()).build(&());
    let message = message.map_err(|error| error.to_string())?;
    Subject::new_for_message_header(&message.header()).map_err(|error| error.to_string())
}

/// Takes a dialog off the screen that nobody needs any more.
async fn cancel(authority: &AuthorityProxy<'_>, question: &str) {
    let cancelled = authority.cancel_check_authorization(question);
    match tokio::time::timeout(PATIENCE, cancelled).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cannot cancel an authorization check"),
        Err(_) => tracing::warn!("polkit is not responding"),
    }
}

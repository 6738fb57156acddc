//! Authorization checks to polkit; no other file communicates with it.
//!
//! The subject is always the caller's bus name: polkit's documentation calls a subject made of a
//! process number and its start time broken. Only the reply "authorized" authorizes; an error, a
//! timeout, or a caller that disconnects meanwhile is a refusal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use zbus::message::Message;
use zbus::{Connection, DBusError as _};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::Error;
use super::action::{Action, Details};
use super::caller::Caller;

/// How long polkit may take to reply without a dialog.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long a person may take to answer a dialog.
const DIALOG_TIMEOUT: Duration = Duration::from_secs(300);

/// A client of polkit.
#[derive(Debug)]
pub struct Polkit {
    /// Weak, to avoid a cycle: the connection owns the objects, and each object owns the authorizer
    /// and thereby this client.
    connection: Weak<Connection>,
    /// The next cancellation identifier.
    next_id: AtomicU64,
}

impl Polkit {
    /// Creates a client of the polkit on this bus, which need not be running yet.
    #[must_use]
    pub fn new(connection: &Arc<Connection>) -> Self {
        Self { connection: Arc::downgrade(connection), next_id: AtomicU64::new(1) }
    }

    /// Checks that a caller is authorized for an action.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`], [`Error::NoPolkit`], [`Error::Interactive`], [`Error::CallerGone`].
    pub async fn check(
        &self,
        caller: &mut Caller,
        action: Action,
        details: &Details<'_>,
        interactive: bool,
    ) -> Result<(), Error> {
        let timeout = if interactive { DIALOG_TIMEOUT } else { TIMEOUT };
        self.check_within(timeout, caller, action, details, interactive).await
    }

    /// Checks that a caller is authorized for an action. Without a reply within `timeout` it is
    /// not.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`], [`Error::NoPolkit`], [`Error::Interactive`], [`Error::CallerGone`].
    pub async fn check_within(
        &self,
        timeout: Duration,
        caller: &mut Caller,
        action: Action,
        details: &Details<'_>,
        interactive: bool,
    ) -> Result<(), Error> {
        let request = || action.describe(details);
        let denied = |why: String| Error::Denied { action, request: request(), why };
        let subject = subject(caller).map_err(denied)?;
        let connection =
            self.connection.upgrade().ok_or_else(|| denied("disconnected from the bus".into()))?;
        let authority = AuthorityProxy::builder(&connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(|error| denied(error.to_string()))?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let flags = if interactive {
            CheckAuthorizationFlags::ALLOW_USER_INTERACTION
        } else {
            CheckAuthorizationFlags::empty()
        };
        let check = authority.check_authorization(&subject, action.id(), details, flags, &id);
        let result = tokio::select! {
            result = check => result.map_err(|error| {
                if is_absent(&error) {
                    Error::NoPolkit { action, request: request() }
                } else {
                    denied(format!("cannot query polkit: {error}"))
                }
            })?,
            () = caller.disconnected() => {
                cancel(&authority, &id).await;
                return Err(Error::CallerGone);
            }
            () = tokio::time::sleep(timeout) => {
                cancel(&authority, &id).await;
                return Err(denied(format!("polkit did not respond within {} s", timeout.as_secs())));
            }
        };
        if result.is_authorized {
            Ok(())
        } else if result.is_challenge && !interactive {
            Err(Error::Interactive { action, request: request() })
        } else if result.is_challenge {
            Err(denied("no authentication agent asked for a password".into()))
        } else {
            Err(denied("polkit refused".into()))
        }
    }
}

/// Whether the error means that polkit is not running and that the bus cannot start it.
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

/// Returns polkit's subject for the caller's bus name.
fn subject(caller: &Caller) -> Result<Subject, String> {
    // zbus_polkit makes a subject of the sender of a message.
    let message = Message::method_call("/", "Subject").sender(caller.name.as_ref()).build(&());
    let message = message.map_err(|error| error.to_string())?;
    Subject::new_for_message_header(&message.header()).map_err(|error| error.to_string())
}

/// Cancels a check, which closes its dialog.
async fn cancel(authority: &AuthorityProxy<'_>, id: &str) {
    let cancelled = authority.cancel_check_authorization(id);
    match tokio::time::timeout(TIMEOUT, cancelled).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cannot cancel an authorization check"),
        Err(_) => tracing::warn!("polkit is not responding"),
    }
}

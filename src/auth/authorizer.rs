//! Authorization of calls: every call passes here before anything else is done for it.
//!
//! 1. [`Authorizer::accept`] looks up the method in the authorization table and identifies the
//!    caller.
//! 2. The method decodes its arguments and calls [`Call::authorize`] for each action that they
//!    need. A privileged user is authorized; for others polkit decides.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use zbus::Connection;
use zbus::message::{Flags, Header};

use super::Error;
use super::action::{Action, Details};
use super::caller::{Caller, Callers};
use super::lifeline_throttle::LifelineThrottle;
use super::methods::{self, MethodRule};
use super::polkit::Polkit;
use crate::admission::Admission;
use crate::privacy::{Privacy, Viewer};
use crate::service::Service;
use crate::service::core::limits::{self, within};
use crate::service::report::event_log::{self, Denied};
use crate::sync::{KeyedCounts, lock};

/// The rule that decides about a request.
#[derive(Debug)]
pub(super) enum Rule {
    /// The system service: root is authorized; polkit decides for all other users.
    System(Polkit),
    /// The instance of this user: the user is authorized, all others are denied.
    Session(u32),
}

/// The authorizer. A cheap handle.
#[derive(Debug, Clone)]
pub struct Authorizer {
    pub(super) rule: Arc<Rule>,
    /// The clients that call.
    pub callers: Callers,
    /// The visibility of owners and locks to each client.
    pub privacy: Privacy,
    pub(super) service: Service,
    /// The checks to polkit that are in progress.
    checks: Arc<Mutex<KeyedCounts<u32>>>,
    lifelines: Arc<Mutex<LifelineThrottle>>,
}

impl Authorizer {
    /// Creates the authorizer of the system service.
    ///
    /// # Errors
    ///
    /// If the bus does not respond.
    pub async fn system(
        connection: &Arc<Connection>,
        service: Service,
        admission: Admission,
    ) -> zbus::Result<Self> {
        let rule = Rule::System(Polkit::new(connection));
        Self::new(rule, connection, service, admission).await
    }

    /// Creates the authorizer of a user's own instance.
    ///
    /// # Errors
    ///
    /// If the bus does not respond.
    pub async fn session(
        connection: &Arc<Connection>,
        service: Service,
        admission: Admission,
    ) -> zbus::Result<Self> {
        let rule = Rule::Session(rustix::process::geteuid().as_raw());
        Self::new(rule, connection, service, admission).await
    }

    async fn new(
        rule: Rule,
        connection: &Arc<Connection>,
        service: Service,
        admission: Admission,
    ) -> zbus::Result<Self> {
        let privacy = admission.privacy().clone();
        let callers = Callers::new(connection, admission).await?;
        Ok(Self {
            rule: Arc::new(rule),
            callers,
            privacy,
            service,
            checks: Arc::default(),
            lifelines: Arc::default(),
        })
    }

    /// Accepts a call of a method that is in the authorization table. The method then authorizes
    /// each action as its arguments require. The number of calls is bounded earlier, by
    /// [`Admission`].
    ///
    /// # Errors
    ///
    /// [`Error::Unlisted`], [`Error::CallerGone`], [`Error::BusTimeout`].
    pub async fn accept<'g>(
        &'g self,
        header: &'g Header<'g>,
        interface: &str,
        member: &str,
    ) -> Result<Call<'g>, Error> {
        let method = methods::find(interface, member)
            .ok_or_else(|| Error::Unlisted(format!("{interface}.{member}")))?;
        let sender = header.sender().ok_or(Error::CallerGone)?;
        let caller = self.callers.identify(sender).await?;
        Ok(Call { authorizer: self, header, method, caller })
    }

    /// Whether this user is authorized for every action.
    #[must_use]
    pub fn is_privileged(&self, uid: u32) -> bool {
        match *self.rule {
            Rule::System(_) => uid == 0,
            Rule::Session(own) => uid == own,
        }
    }

    /// Admits a check to polkit, within the limits in total and for each user.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`].
    fn admit_check(&self, uid: u32) -> Result<CheckPermit, Error> {
        let in_force = self.service.limits();
        let mut checks = lock(&self.checks);
        let (own, total) = (checks.of(&uid) + 1, checks.total() + 1);
        let what = "authorization checks at one time";
        let most = in_force.checks_per_user.min(limits::share(in_force.checks_total));
        within(what, own, most, || format!("for uid {uid}"))?;
        within("authorization checks", total, in_force.checks_total, || "at one time".into())?;
        checks.increment(uid);
        Ok(CheckPermit { checks: Arc::clone(&self.checks), uid })
    }
}

/// A check to polkit in progress, until it is dropped.
#[derive(Debug)]
struct CheckPermit {
    checks: Arc<Mutex<KeyedCounts<u32>>>,
    uid: u32,
}

impl Drop for CheckPermit {
    fn drop(&mut self) {
        lock(&self.checks).decrement(&self.uid);
    }
}

/// A call that was accepted.
#[derive(Debug)]
pub struct Call<'g> {
    /// The client that sent it.
    pub caller: Caller,
    authorizer: &'g Authorizer,
    header: &'g Header<'g>,
    method: &'static MethodRule,
}

impl Call<'_> {
    /// Returns the caller's user.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.caller.uid
    }

    /// Whether the caller is authorized for every action. Checks that protect other users from the
    /// caller do not apply to it.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.authorizer.is_privileged(self.caller.uid)
    }

    /// Counts a lifeline that is about to be sent to the caller.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] if its user has received too many in a short time.
    pub fn count_lifeline(&self) -> Result<(), Error> {
        if self.is_privileged() {
            return Ok(());
        }
        Ok(lock(&self.authorizer.lifelines).count(self.uid(), Instant::now())?)
    }

    /// Returns what the caller may see.
    #[must_use]
    pub fn viewer(&self) -> Viewer {
        self.authorizer.privacy.viewer(&self.caller.name)
    }

    /// Authorizes the caller for an action, with a dialog if its message allows one. A refusal is
    /// written to the audit log.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`], [`Error::NoPolkit`], [`Error::Interactive`], [`Error::CallerGone`],
    /// [`Error::Limit`]; [`Error::Unlisted`] for an action that the authorization table does not
    /// list for the method. Anything but an explicit authorization is an error.
    pub async fn authorize(&self, action: Action, details: &Details<'_>) -> Result<(), Error> {
        let interactive = self.header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
        let checked = self.check(action, details, interactive).await;
        if let Err(error) = &checked {
            self.log_refusal(action, details, error);
        }
        checked
    }

    /// Whether the caller is authorized for an action. Never shows a dialog.
    pub async fn is_authorized(&self, action: Action, details: &Details<'_>) -> bool {
        self.check(action, details, false).await.is_ok()
    }

    async fn check(
        &self,
        action: Action,
        details: &Details<'_>,
        interactive: bool,
    ) -> Result<(), Error> {
        if !self.method.actions.contains(&action) {
            let MethodRule { interface, member, .. } = self.method;
            return Err(Error::Unlisted(format!("{interface}.{member} with {}", action.id())));
        }
        if self.is_privileged() {
            return Ok(());
        }
        match &*self.authorizer.rule {
            Rule::Session(_) => {
                let why = "this instance serves another user".to_owned();
                Err(Error::Denied { action, request: action.describe(details), why })
            }
            Rule::System(polkit) => {
                let _permit = self.authorizer.admit_check(self.caller.uid)?;
                let mut caller = self.caller.clone();
                polkit.check(&mut caller, action, details, interactive).await?;
                // The caller may have disconnected while polkit decided.
                if self.caller.is_connected() { Ok(()) } else { Err(Error::CallerGone) }
            }
        }
    }

    fn log_refusal(&self, action: Action, details: &Details<'_>, error: &Error) {
        let detail = |key| details.get(key).copied();
        let method = format!("{}.{}", self.method.interface, self.method.member);
        let denied = Denied {
            sender: Some(self.caller.name.as_str()),
            method: Some(&method),
            action: Some(action.id()),
            resource: detail("resource"),
            uuid: detail("uuid"),
            vm: detail("vm"),
            why: error.as_str(),
        };
        self.authorizer.service.metrics().denied();
        let message = match error {
            Error::Denied { .. } | Error::NoPolkit { .. } | Error::Interactive { .. } => {
                error.to_string()
            }
            // The other errors do not contain the request.
            _ => format!(
                "cannot {}: {} was not decided: {error}",
                action.describe(details),
                action.id()
            ),
        };
        event_log::denied(self.caller.uid, &denied, message);
    }
}

//! Every call passes here before anything else happens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use zbus::Connection;
use zbus::message::{Flags, Header};

use super::Error;
use super::caller::{Caller, Callers};
use super::deed::{self, Action, Details, Row};
use super::lifelines::Lifelines;
use super::polkit::Polkit;
use crate::admission::Admission;
use crate::privacy::{Privacy, Viewer};
use crate::service::Service;
use crate::service::chronicle::{self, Denied};
use crate::service::limits::{self, within};

/// Who is let through without a question.
#[derive(Debug)]
pub(super) enum Rule {
    /// Root; everybody else as polkit says.
    System(Polkit),
    /// The user whose instance this is; nobody else, and no question.
    Own(u32),
}

/// The gate. A cheap handle.
#[derive(Debug, Clone)]
pub struct Gate {
    pub(super) rule: Arc<Rule>,
    /// Those who call.
    pub callers: Callers,
    /// What they may see.
    pub privacy: Privacy,
    pub(super) service: Service,
    busy: Arc<Mutex<Busy>>,
    lifelines: Arc<Mutex<Lifelines>>,
}

/// Questions to polkit that are open, by user.
type Busy = HashMap<u32, usize>;

impl Gate {
    /// The gate of the system service: root passes, polkit judges the rest.
    ///
    /// # Errors
    ///
    /// Where the bus does not answer.
    pub async fn system(
        connection: &Arc<Connection>,
        service: Service,
        admission: Admission,
    ) -> zbus::Result<Self> {
        let rule = Rule::System(Polkit::new(connection));
        Self::new(rule, connection, service, admission).await
    }

    /// The gate of one user's own instance.
    ///
    /// # Errors
    ///
    /// Where the bus does not answer.
    pub async fn own(
        connection: &Arc<Connection>,
        service: Service,
        admission: Admission,
    ) -> zbus::Result<Self> {
        let rule = Rule::Own(nix::unistd::geteuid().as_raw());
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
            busy: Arc::default(),
            lifelines: Arc::default(),
        })
    }

    /// Lets a call in, with its row of the list; whether it may go on is asked as its arguments
    /// become known. How many calls there may be is decided before, by [`Admission`].
    ///
    /// # Errors
    ///
    /// [`Error::Unlisted`], [`Error::CallerGone`].
    pub async fn enter<'g>(
        &'g self,
        header: &'g Header<'g>,
        interface: &str,
        member: &str,
    ) -> Result<Call<'g>, Error> {
        let row = deed::find(interface, member)
            .ok_or_else(|| Error::Unlisted(format!("{interface}.{member}")))?;
        let sender = header.sender().ok_or(Error::CallerGone)?;
        let caller = self.callers.identify(sender).await?;
        Ok(Call { gate: self, header, row, caller })
    }

    /// Whether this user passes without a question.
    #[must_use]
    pub fn passes(&self, uid: u32) -> bool {
        match *self.rule {
            Rule::System(_) => uid == 0,
            Rule::Own(own) => uid == own,
        }
    }

    /// Counts a question to polkit, until what is returned is dropped.
    fn count_check(&self, uid: u32) -> Result<Counted, Error> {
        let in_force = self.service.limits();
        let mut busy = lock(&self.busy);
        let own = busy.get(&uid).copied().unwrap_or_default() + 1;
        let total = busy.values().sum::<usize>() + 1;
        let what = "authorization checks at one time";
        let most = in_force.checks_per_user.min(limits::share(in_force.checks_total));
        within(what, own, most, || format!("for uid {uid}"))?;
        within("authorization checks", total, in_force.checks_total, || "at one time".into())?;
        *busy.entry(uid).or_default() += 1;
        Ok(Counted { busy: Arc::clone(&self.busy), uid })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One more question, until it is dropped.
#[derive(Debug)]
struct Counted {
    busy: Arc<Mutex<Busy>>,
    uid: u32,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut busy = lock(&self.busy);
        if let Some(count) = busy.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.uid);
            }
        }
    }
}

/// A call that was let in.
#[derive(Debug)]
pub struct Call<'g> {
    /// Who calls.
    pub caller: Caller,
    gate: &'g Gate,
    header: &'g Header<'g>,
    row: &'static Row,
}

impl Call<'_> {
    /// The caller's user.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.caller.uid
    }

    /// Whether the caller passes without a question: then nobody needs protection from him.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.gate.passes(self.caller.uid)
    }

    /// Counts a lifeline that the caller is about to be handed.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] if its user was handed too many in a short time.
    pub fn count_lifeline(&self) -> Result<(), Error> {
        if self.passes() {
            return Ok(());
        }
        Ok(lock(&self.gate.lifelines).count(self.uid(), Instant::now())?)
    }

    /// What the caller may see.
    #[must_use]
    pub fn viewer(&self) -> Viewer {
        self.gate.privacy.viewer(&self.caller.name)
    }

    /// Asks whether the caller may do this, with a dialog if his message allows one.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] and the like: whatever is not a clear yes.
    pub async fn ask(&self, action: Action, details: &Details<'_>) -> Result<(), Error> {
        let interactive = self.header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
        let asked = self.put(action, details, interactive).await;
        if let Err(error) = &asked {
            self.refuse(action, details, error);
        }
        asked
    }

    /// Logs that the caller is not authorized for this.
    fn refuse(&self, action: Action, details: &Details<'_>, error: &Error) {
        let known = |key| details.get(key).copied();
        let method = format!("{}.{}", self.row.interface, self.row.member);
        let denied = Denied {
            sender: Some(self.caller.name.as_str()),
            method: Some(&method),
            action: Some(action.id()),
            resource: known("resource"),
            uuid: known("uuid"),
            vm: known("vm"),
            why: error.word(),
        };
        self.gate.service.counts().denied();
        let message = match error {
            Error::Denied { .. } | Error::NoPolkit { .. } | Error::Interactive { .. } => {
                error.to_string()
            }
            // These do not name what was requested.
            _ => format!(
                "cannot {}: {} was not decided: {error}",
                action.describe(details),
                action.id()
            ),
        };
        chronicle::denied(self.caller.uid, &denied, message);
    }

    /// Whether the caller may do this, without ever showing a dialog.
    pub async fn may(&self, action: Action, details: &Details<'_>) -> bool {
        self.put(action, details, false).await.is_ok()
    }

    async fn put(
        &self,
        action: Action,
        details: &Details<'_>,
        interactive: bool,
    ) -> Result<(), Error> {
        if !self.row.actions.contains(&action) {
            let Row { interface, member, .. } = self.row;
            return Err(Error::Unlisted(format!("{interface}.{member} with {}", action.id())));
        }
        if self.passes() {
            return Ok(());
        }
        match &*self.gate.rule {
            Rule::Own(_) => {
                let why = "this instance serves another user".to_owned();
                Err(Error::Denied { action, deed: action.describe(details), why })
            }
            Rule::System(polkit) => {
                let _counted = self.gate.count_check(self.caller.uid)?;
                let mut caller = self.caller.clone();
                polkit.ask(&mut caller, action, details, interactive).await?;
                // The answer may have been given to somebody who is not there to use it.
                if self.caller.is_here() { Ok(()) } else { Err(Error::CallerGone) }
            }
        }
    }
}

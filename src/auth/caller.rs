//! Who is behind a bus name.
//!
//! Asked of the bus once for each connection, and forgotten when it leaves. A unique name is never
//! given twice in the life of a bus, so what is known of it can't become another's.
//!
//! The news that a caller left may overtake his last call. So he is entered first, *then* asked
//! about: the bus answers `NameHasNoOwner` for one that has left, and he is not kept.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use zbus::fdo::ConnectionCredentials;
use zbus::message::Type;
use zbus::names::{OwnedUniqueName, UniqueName};
use zbus::{Connection, MatchRule, MessageStream};

use super::Error;
use super::names::Names;
use crate::admission::Admission;
use crate::service::{CallerProcess, Presence};

/// Somebody who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// His connection.
    pub name: OwnedUniqueName,
    /// His user.
    pub uid: u32,
    /// Its process, as the bus knows it; for people and for `pid 0`, never for a decision.
    pub pid: Option<u32>,
    /// The same, with what is known of its namespaces.
    pub process: Arc<CallerProcess>,
    gone: watch::Receiver<bool>,
}

impl Caller {
    /// Whether he is still on the bus.
    #[must_use]
    pub fn is_here(&self) -> bool {
        !*self.gone.borrow()
    }

    /// What tells others of his leaving.
    #[must_use]
    pub fn presence(&self) -> Presence {
        Presence(self.gone.clone())
    }

    /// Returns once he has left.
    pub async fn gone(&mut self) {
        // The sender is dropped only after it has said so, or with the bus connection itself:
        // both mean that he is not there any more.
        let _ = self.gone.wait_for(|gone| *gone).await;
    }
}

/// All who have called and are still there.
#[derive(Debug, Clone)]
pub struct Callers {
    names: Names,
    known: Arc<Mutex<HashMap<OwnedUniqueName, Known>>>,
}

#[derive(Debug)]
struct Known {
    pid: Option<u32>,
    /// Set once the bus has told it.
    process: Option<Arc<CallerProcess>>,
    gone: watch::Sender<bool>,
}

impl Callers {
    /// Starts to know callers of this connection, and tells `admission` which of them have left.
    ///
    /// # Errors
    ///
    /// Where the bus does not answer.
    pub async fn new(connection: &Arc<Connection>, admission: Admission) -> zbus::Result<Self> {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(2, "")
            .build()?;
        let leaving = MessageStream::for_match_rule(rule, connection, None).await?;
        let callers = Self { names: Names::new(connection), known: Arc::default() };
        tokio::spawn(forget_those_who_leave(leaving, Arc::clone(&callers.known), admission));
        Ok(callers)
    }

    /// Finds out which user and process a connection belongs to.
    ///
    /// # Errors
    ///
    /// [`Error::CallerGone`] if there is no such connection (any more), or the bus does not tell its
    /// user; [`Error::Unanswered`] if the bus does not answer.
    pub async fn identify(&self, name: &UniqueName<'_>) -> Result<Caller, Error> {
        let name = OwnedUniqueName::from(name.to_owned());
        match self.enter(&name) {
            Some(caller) => Ok(caller),
            None => self.complete(&name, self.names.credentials(&name).await),
        }
    }

    /// As [`identify`](Self::identify), but asks the bus only once.
    ///
    /// # Errors
    ///
    /// Those of [`identify`](Self::identify).
    pub(super) async fn identify_within(
        &self,
        name: &UniqueName<'_>,
        deadline: Duration,
    ) -> Result<Caller, Error> {
        let name = OwnedUniqueName::from(name.to_owned());
        match self.enter(&name) {
            Some(caller) => Ok(caller),
            None => self.complete(&name, self.names.credentials_within(&name, deadline).await),
        }
    }

    /// Completes the entry of a caller that the bus was asked about, or drops it.
    fn complete(
        &self,
        name: &OwnedUniqueName,
        answer: Result<ConnectionCredentials, Error>,
    ) -> Result<Caller, Error> {
        let mut known = self.known();
        let found = answer.and_then(|found| {
            let uid = found.unix_user_id().ok_or(Error::CallerGone)?;
            let entry = known.get_mut(name).ok_or(Error::CallerGone)?;
            entry.pid = found.process_id();
            let pidfd = found.into_process_fd().map(OwnedFd::from);
            let process = Arc::new(CallerProcess::new(uid, entry.pid, pidfd));
            entry.process = Some(Arc::clone(&process));
            Ok(entry.caller(name.clone(), process))
        });
        if found.is_err() && known.get(name).is_some_and(|entry| entry.process.is_none()) {
            known.remove(name);
        }
        found
    }

    /// Has callers forgotten that have left while the signal that tells it was lost. Runs for as long
    /// as it is polled.
    pub async fn forget_missed(self, admission: Admission) {
        loop {
            self.names.is_due().await;
            // A name that is entered before the bus is asked, and not listed then, has left: no bus
            // gives a unique name twice.
            let mut names: Vec<OwnedUniqueName> = self.known().keys().cloned().collect();
            let called = admission.connections().into_iter();
            names.extend(called.filter_map(|name| OwnedUniqueName::try_from(&*name).ok()));
            names.retain(|name| !Admission::is_peer(name));
            if names.is_empty() {
                continue;
            }
            let Some(there) = self.names.list().await else { continue };
            for name in names.iter().filter(|name| !there.contains(*name)) {
                self.left(name);
                admission.left(name);
            }
        }
    }

    /// Enters a client of the private socket, which no bus knows. [`left`](Self::left) is to be
    /// called once it has left.
    pub fn enter_peer(&self, name: OwnedUniqueName, process: Arc<CallerProcess>, pid: u32) {
        let known =
            Known { pid: Some(pid), process: Some(process), gone: watch::Sender::new(false) };
        self.known().insert(name, known);
    }

    /// Enters that a caller has left.
    pub fn left(&self, name: &OwnedUniqueName) {
        if let Some(left) = self.known().remove(name) {
            left.gone.send_replace(true);
        }
    }

    /// All callers that are known.
    #[must_use]
    pub fn all(&self) -> Vec<Caller> {
        let known = self.known();
        let all = known.iter().filter_map(|(name, known)| {
            let process = known.process.clone()?;
            Some(known.caller(name.clone(), process))
        });
        all.collect()
    }

    /// Asks the bus whether a caller is still there. Of a client of the private socket it is known.
    pub async fn confirm(&self, caller: &Caller) -> bool {
        let is_peer = Admission::is_peer(&caller.name);
        caller.is_here() && (is_peer || self.names.credentials(&caller.name).await.is_ok())
    }

    /// A descriptor of the caller's process, where the bus gives one (dbus-broker 35 and later).
    pub async fn process_of(&self, caller: &Caller) -> Option<OwnedFd> {
        if Admission::is_peer(&caller.name) {
            return caller.process.open().ok();
        }
        let found = self.names.credentials(&caller.name).await.ok()?;
        found.into_process_fd().map(OwnedFd::from)
    }

    /// Enters a name; the caller if he is known already.
    fn enter(&self, name: &OwnedUniqueName) -> Option<Caller> {
        let mut known = self.known();
        let entry = known.entry(name.clone()).or_insert_with(|| Known {
            pid: None,
            process: None,
            gone: watch::Sender::new(false),
        });
        let process = entry.process.clone()?;
        Some(entry.caller(name.clone(), process))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<OwnedUniqueName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn caller(&self, name: OwnedUniqueName, process: Arc<CallerProcess>) -> Caller {
        let (uid, pid) = (process.uid(), self.pid);
        Caller { name, uid, pid, process, gone: self.gone.subscribe() }
    }
}

/// Reads who left, and does nothing else: a stream that is not read stops the whole connection.
async fn forget_those_who_leave(
    mut leaving: MessageStream,
    known: Arc<Mutex<HashMap<OwnedUniqueName, Known>>>,
    admission: Admission,
) {
    while let Some(Ok(message)) = leaving.next().await {
        let body = message.body();
        let Ok((name, _, _)) = body.deserialize::<(&str, &str, &str)>() else {
            continue;
        };
        let Ok(name) = UniqueName::try_from(name) else {
            continue;
        };
        let key = OwnedUniqueName::from(name.to_owned());
        let left = known.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        if let Some(left) = left {
            left.gone.send_replace(true);
        }
        // After that, so that a caller that is being identified is not entered there for ever.
        admission.left(name.as_str());
    }
    // With the bus all have left. What waits for them would wait for ever: it keeps this alive itself.
    for (_, left) in known.lock().unwrap_or_else(PoisonError::into_inner).drain() {
        left.gone.send_replace(true);
    }
}

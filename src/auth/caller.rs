//! The clients that call the service, by their unique bus names.
//!
//! The bus is queried once for each connection, and the result is kept until the connection ends. A
//! bus never reuses a unique name, so an entry cannot come to describe another connection.
//!
//! The signal that a client has disconnected may arrive before its last call is processed.
//! Therefore the entry of a client is added *before* the bus is queried: about a client that has
//! disconnected the bus replies `NameHasNoOwner`, and the entry is removed.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use zbus::fdo::ConnectionCredentials;
use zbus::message::Type;
use zbus::names::{OwnedUniqueName, UniqueName};
use zbus::{Connection, MatchRule, MessageStream};

use super::Error;
use super::bus_driver::BusDriver;
use crate::admission::Admission;
use crate::service::{CallerProcess, Presence};
use crate::sync;

/// A client that has called.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The unique name of its connection.
    pub name: OwnedUniqueName,
    /// Its user.
    pub uid: u32,
    /// Its process, as the bus reports it: for messages and for `pid 0`, never for authorization.
    pub pid: Option<u32>,
    /// Its process, with the namespaces as far as they are known.
    pub process: Arc<CallerProcess>,
    disconnected: watch::Receiver<bool>,
}

impl Caller {
    /// Whether the service has not been notified that the client has disconnected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !*self.disconnected.borrow()
    }

    /// Returns a handle by which a waiting request observes that the client disconnects.
    #[must_use]
    pub fn presence(&self) -> Presence {
        Presence(self.disconnected.clone())
    }

    /// Waits until the client has disconnected.
    pub async fn disconnected(&mut self) {
        // The sender is dropped after it has sent `true`, or together with the bus connection: the
        // client is disconnected in both cases.
        let _ = self.disconnected.wait_for(|disconnected| *disconnected).await;
    }
}

/// All clients that have called and are connected.
#[derive(Debug, Clone)]
pub struct Callers {
    bus: BusDriver,
    entries: Entries,
}

type Entries = Arc<Mutex<HashMap<OwnedUniqueName, CallerEntry>>>;

/// A client, which may not have been identified yet.
#[derive(Debug)]
struct CallerEntry {
    pid: Option<u32>,
    /// `None` until the bus has reported it.
    process: Option<Arc<CallerProcess>>,
    disconnected: watch::Sender<bool>,
}

impl Callers {
    /// Subscribes to the signal that a client has disconnected. `admission` is notified of each.
    ///
    /// # Errors
    ///
    /// If the bus does not respond.
    pub async fn new(connection: &Arc<Connection>, admission: Admission) -> zbus::Result<Self> {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(2, "")
            .build()?;
        let disconnects = MessageStream::for_match_rule(rule, connection, None).await?;
        let callers = Self { bus: BusDriver::new(connection), entries: Arc::default() };
        tokio::spawn(process_disconnects(disconnects, Arc::clone(&callers.entries), admission));
        Ok(callers)
    }

    /// Returns the user and process of a connection.
    ///
    /// # Errors
    ///
    /// [`Error::CallerGone`] if there is no such connection, or the bus does not report its user;
    /// [`Error::BusTimeout`] if the bus does not reply.
    pub async fn identify(&self, name: &UniqueName<'_>) -> Result<Caller, Error> {
        let name = OwnedUniqueName::from(name.to_owned());
        match self.get_or_add(&name) {
            Some(caller) => Ok(caller),
            None => self.complete(&name, self.bus.credentials(&name).await),
        }
    }

    /// Returns the user and process of a connection, and queries the bus at most once.
    ///
    /// # Errors
    ///
    /// See [`identify`](Self::identify).
    pub(super) async fn identify_within(
        &self,
        name: &UniqueName<'_>,
        deadline: Duration,
    ) -> Result<Caller, Error> {
        let name = OwnedUniqueName::from(name.to_owned());
        match self.get_or_add(&name) {
            Some(caller) => Ok(caller),
            None => self.complete(&name, self.bus.credentials_within(&name, deadline).await),
        }
    }

    /// Completes the entry of a client with the reply of the bus, or removes the entry.
    fn complete(
        &self,
        name: &OwnedUniqueName,
        reply: Result<ConnectionCredentials, Error>,
    ) -> Result<Caller, Error> {
        let mut entries = self.entries();
        let found = reply.and_then(|credentials| {
            let uid = credentials.unix_user_id().ok_or(Error::CallerGone)?;
            let entry = entries.get_mut(name).ok_or(Error::CallerGone)?;
            entry.pid = credentials.process_id();
            let pidfd = credentials.into_process_fd().map(OwnedFd::from);
            let process = Arc::new(CallerProcess::new(uid, entry.pid, pidfd));
            entry.process = Some(Arc::clone(&process));
            Ok(entry.caller(name.clone(), process))
        });
        if found.is_err() && entries.get(name).is_some_and(|entry| entry.process.is_none()) {
            entries.remove(name);
        }
        found
    }

    /// Reconciles the clients with the connections on the bus, and removes those that have
    /// disconnected while the signal was lost. Never returns.
    pub async fn reconcile(self, admission: Admission) {
        loop {
            self.bus.reconciliation_due().await;
            // A name that is collected before the bus is queried, and is not in its list, has
            // disconnected: a bus never reuses a unique name.
            let mut names: Vec<OwnedUniqueName> = self.entries().keys().cloned().collect();
            let called = admission.connections().into_iter();
            names.extend(called.filter_map(|name| OwnedUniqueName::try_from(&*name).ok()));
            names.retain(|name| !Admission::is_private_client(name));
            if names.is_empty() {
                continue;
            }
            let Some(connected) = self.bus.list_names().await else { continue };
            for name in names.iter().filter(|name| !connected.contains(*name)) {
                self.remove(name);
                admission.remove_connection(name);
            }
        }
    }

    /// Adds a client of the private socket, which no bus knows. [`remove`](Self::remove) must be
    /// called once it has disconnected.
    pub fn add_private_client(&self, name: OwnedUniqueName, process: Arc<CallerProcess>, pid: u32) {
        let disconnected = watch::Sender::new(false);
        let entry = CallerEntry { pid: Some(pid), process: Some(process), disconnected };
        self.entries().insert(name, entry);
    }

    /// Removes a client that has disconnected, and notifies the requests that wait for it.
    pub fn remove(&self, name: &OwnedUniqueName) {
        if let Some(entry) = self.entries().remove(name) {
            entry.disconnected.send_replace(true);
        }
    }

    /// Returns all clients that are identified.
    #[must_use]
    pub fn all(&self) -> Vec<Caller> {
        let entries = self.entries();
        let all = entries.iter().filter_map(|(name, entry)| {
            let process = entry.process.clone()?;
            Some(entry.caller(name.clone(), process))
        });
        all.collect()
    }

    /// Whether a client is connected, according to the bus: the signal that it has disconnected may
    /// still be in transit. For a client of the private socket the local state is authoritative.
    pub async fn confirm_connected(&self, caller: &Caller) -> bool {
        let is_private_client = Admission::is_private_client(&caller.name);
        caller.is_connected()
            && (is_private_client || self.bus.credentials(&caller.name).await.is_ok())
    }

    /// Returns a descriptor of the client's process, if the bus provides one (dbus-broker 35 and
    /// later).
    pub async fn pidfd_of(&self, caller: &Caller) -> Option<OwnedFd> {
        if Admission::is_private_client(&caller.name) {
            return caller.process.open().ok();
        }
        let credentials = self.bus.credentials(&caller.name).await.ok()?;
        credentials.into_process_fd().map(OwnedFd::from)
    }

    /// Returns the client of a name if it is identified; otherwise ensures that it has an entry.
    fn get_or_add(&self, name: &OwnedUniqueName) -> Option<Caller> {
        let mut entries = self.entries();
        let entry = entries.entry(name.clone()).or_insert_with(|| CallerEntry {
            pid: None,
            process: None,
            disconnected: watch::Sender::new(false),
        });
        let process = entry.process.clone()?;
        Some(entry.caller(name.clone(), process))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<OwnedUniqueName, CallerEntry>> {
        sync::lock(&self.entries)
    }
}

impl CallerEntry {
    fn caller(&self, name: OwnedUniqueName, process: Arc<CallerProcess>) -> Caller {
        let (uid, pid) = (process.uid(), self.pid);
        Caller { name, uid, pid, process, disconnected: self.disconnected.subscribe() }
    }
}

/// Removes each client that disconnects, and does nothing else: a stream that is not read blocks
/// the whole connection.
async fn process_disconnects(
    mut disconnects: MessageStream,
    entries: Entries,
    admission: Admission,
) {
    while let Some(Ok(message)) = disconnects.next().await {
        let body = message.body();
        let Ok((name, _, _)) = body.deserialize::<(&str, &str, &str)>() else {
            continue;
        };
        let Ok(name) = UniqueName::try_from(name) else {
            continue;
        };
        let key = OwnedUniqueName::from(name.to_owned());
        let removed = sync::lock(&entries).remove(&key);
        if let Some(entry) = removed {
            entry.disconnected.send_replace(true);
        }
        // After the entry, so that a client that is being identified does not stay in `admission`.
        admission.remove_connection(name.as_str());
    }
    // All clients disconnect together with the bus. A request that waits for one of them keeps its
    // entry alive, and would wait forever.
    for (_, entry) in sync::lock(&entries).drain() {
        entry.disconnected.send_replace(true);
    }
}

//! Floor 3: which part of the service's state a caller may see.
//!
//! By default every user sees the owners of all users. With `privacy = "private"` in the
//! configuration, a user sees its own owners only; root, the user of the instance, and callers that
//! polkit authorizes for `view-foreign` see everything. [`Viewer::may_see`] is the only decision.
//! Four places withhold everything else:
//!
//! - Calls to objects: `admission` calls [`Privacy::hides`] for each call before zbus receives it.
//!   A hidden object replies exactly as an object that does not exist.
//! - Lists, counts and introspection: `dbus` filters them by the caller's viewer.
//! - Errors: `dbus/error/redaction` adds a second text to each error that may name other users, and
//!   the sending half of `admission` chooses one of the two ([`ErrorTexts`]).
//! - Signals: `dbus/publish` addresses each signal to the connections that may see it
//!   ([`Privacy::audience`]), and the sending half drops every signal that has no destination.
//!
//! The service knows a connection by its calls alone, so signals go to connections that have
//! called: see [`Privacy::record_call`].

mod error_texts;
mod viewers;

use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock::OwnerId;
use crate::lock::lockspace::LockspaceKind;
use crate::paths;
use crate::service::Service;
use crate::sync;

pub use error_texts::ErrorTexts;
use viewers::Viewers;

/// The interface that every path implements, whether or not it has an object (D-Bus specification,
/// "org.freedesktop.DBus.Peer").
const PEER: &str = "org.freedesktop.DBus.Peer";

/// Methods that subscribe a connection to the signals of everything that it may see.
const WATCHING: &[&str] = &["GetManagedObjects", "ListLocks", "ListOwners", "ListWaiting"];

/// The extent of what a caller may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Viewer {
    /// The user; `None` for a connection that is not known.
    uid: Option<u32>,
    sees_all: bool,
}

impl Viewer {
    /// A viewer that sees everything.
    pub const ALL: Self = Self { uid: None, sees_all: true };

    /// Whether this viewer may see what belongs to an owner of the user `uid`.
    #[must_use]
    pub fn may_see(self, uid: u32) -> bool {
        self.sees_all || self.uid == Some(uid)
    }

    /// Whether this viewer sees everything.
    #[must_use]
    pub fn sees_all(self) -> bool {
        self.sees_all
    }

    /// Returns the only user whose owners this viewer sees; `None` if it sees those of all users.
    #[must_use]
    pub fn only_user(self) -> Option<u32> {
        // An unknown viewer sees what user 2^32-1 has, which is no valid user (chown(2)).
        (!self.sees_all).then(|| self.uid.unwrap_or(u32::MAX))
    }
}

/// The connections that receive a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// All connections: the bus broadcasts the signal.
    Everyone,
    /// These connections, each with what it may see.
    Viewers(Vec<(Arc<str>, Viewer)>),
}

/// The visibility of owners and locks to the callers on a bus connection. A cheap handle.
#[derive(Debug, Clone)]
pub struct Privacy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service,
    /// The user that sees everything, besides root.
    privileged: u32,
    viewers: Mutex<Viewers>,
}

impl Privacy {
    /// Creates a state without connections. The user `privileged` sees everything, as root does.
    #[must_use]
    pub fn new(service: Service, privileged: u32) -> Self {
        Self(Arc::new(Inner { service, privileged, viewers: Mutex::default() }))
    }

    /// Whether owners are hidden from other users.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.service.is_private()
    }

    /// Whether polkit decides if this user sees everything.
    #[must_use]
    pub fn needs_check(&self, uid: u32) -> bool {
        self.is_on() && !self.is_privileged(uid)
    }

    fn is_privileged(&self, uid: u32) -> bool {
        uid == 0 || uid == self.0.privileged
    }

    /// Adds a connection, or changes what it may see. `allowed` is the decision of polkit.
    pub fn set_viewer(&self, connection: &str, uid: u32, allowed: bool) {
        let viewer = Viewer { uid: Some(uid), sees_all: allowed || self.is_privileged(uid) };
        self.viewers().set(connection, viewer);
    }

    /// Removes a connection that has ended.
    pub fn remove_viewer(&self, connection: &str) {
        self.viewers().remove(connection);
    }

    /// Returns what a connection may see: everything unless privacy is on.
    #[must_use]
    pub fn viewer(&self, connection: &str) -> Viewer {
        if self.is_on() { self.viewers().get(connection) } else { Viewer::ALL }
    }

    /// Records a call, which subscribes its caller to signals while privacy is on: to those of an
    /// owner after a call to that owner or to one of its locks; to those of everything that it may
    /// see after `Ping` to the Manager's path, or after a method that lists.
    pub fn record_call(&self, connection: &str, path: &str, interface: Option<&str>, member: &str) {
        if path == paths::ROOT {
            if WATCHING.contains(&member) || interface == Some(PEER) && member == "Ping" {
                self.viewers().watch(connection);
            }
        } else if let Some(owner) = self.owner_of(path) {
            self.follow(connection, owner);
        }
    }

    /// Subscribes a connection to the signals of an owner that exists, if it may see the owner.
    pub fn follow(&self, connection: &str, owner: OwnerId) {
        if self.viewers().is_following(connection, owner) {
            return;
        }
        if self.0.service.read_owner(owner, |_| ()).is_some() {
            self.viewers().follow(connection, owner);
        }
    }

    /// Subscribes a connection to the signals of an owner that it is about to open. The caller must
    /// call [`unfollow`](Self::unfollow) if that fails.
    pub fn follow_new(&self, connection: &str, owner: OwnerId) {
        self.viewers().follow(connection, owner);
    }

    /// Unsubscribes a connection from the signals of an owner.
    pub fn unfollow(&self, connection: &str, owner: OwnerId) {
        self.viewers().unfollow(connection, owner);
    }

    /// Removes the subscriptions to an owner that has ended.
    pub fn remove_owner(&self, owner: OwnerId) {
        self.viewers().remove_owner(owner);
    }

    /// Returns the connections that receive a signal about an owner.
    #[must_use]
    pub fn audience(&self, owner: OwnerId) -> Audience {
        if !self.is_on() {
            return Audience::Everyone;
        }
        Audience::Viewers(self.viewers().audience(owner))
    }

    /// Returns the connections that receive a signal about a lockspace.
    #[must_use]
    pub fn audience_of_lockspace(&self, kind: LockspaceKind) -> Audience {
        if !self.is_on() {
            return Audience::Everyone;
        }
        let mut watchers = self.viewers().watchers();
        watchers.retain(|(_, viewer)| self.may_see_lockspace(*viewer, kind));
        Audience::Viewers(watchers)
    }

    /// Whether a viewer may see a lockspace: always, if it is in the configuration; if clients
    /// created it, only while the viewer may see a lock in it.
    #[must_use]
    pub fn may_see_lockspace(&self, viewer: Viewer, kind: LockspaceKind) -> bool {
        let LockspaceKind::Lease(_) = kind else { return true };
        let visible = |lock: &crate::lock::Lock| {
            lock.want.lockspace == kind && viewer.may_see(lock.owner.uid)
        };
        viewer.sees_all || self.0.service.count_locks(visible) > 0
    }

    /// Whether the object to which a call is addressed must reply as if it did not exist.
    #[must_use]
    pub fn hides(&self, connection: &str, path: &str, interface: Option<&str>) -> bool {
        // Without an interface the reply is the same whether or not the object exists.
        if interface.is_none_or(|interface| interface == PEER) || !self.is_on() {
            return false;
        }
        let viewer = self.viewers().get(connection);
        !viewer.sees_all && !self.may_see_path(viewer, path)
    }

    fn may_see_path(&self, viewer: Viewer, path: &str) -> bool {
        let service = &self.0.service;
        let below = |parent: &str| path.strip_prefix(parent).is_some_and(|x| x.starts_with('/'));
        if path == paths::OWNERS {
            service.owner_ids().iter().any(|id| viewer.may_see(id.uid))
        } else if path == paths::LOCKS {
            service.count_locks(|lock| viewer.may_see(lock.owner.uid)) > 0
        } else if below(paths::OWNERS) || below(paths::LOCKS) {
            self.owner_of(path).is_some_and(|owner| viewer.may_see(owner.uid))
        } else if below(paths::LOCKSPACES) {
            let kinds = service.list_lockspaces().into_iter().map(|(kind, _)| kind);
            let mut hidden = kinds.filter(|kind| !self.may_see_lockspace(viewer, *kind));
            !hidden.any(|kind| paths::lockspace(kind).as_str() == path)
        } else {
            true
        }
    }

    /// Returns the owner of an object: itself, or the owner of a lock.
    fn owner_of(&self, path: &str) -> Option<OwnerId> {
        let of_lock = || self.0.service.lock_owner(paths::lock_number(path)?);
        paths::owner_id(path).or_else(of_lock)
    }

    fn viewers(&self) -> MutexGuard<'_, Viewers> {
        sync::lock(&self.0.viewers)
    }
}

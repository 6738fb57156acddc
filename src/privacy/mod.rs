//! Floor 3: which part of the service's state a caller may see.
//!
//! By default every user sees the owners of all users. With `privacy = "private"` in the
//! configuration, a user sees its own owners only; root, the user whose instance this is, and callers
//! that polkit allows `view-foreign` see everything. [`Viewer::may_see`] is the one place that
//! decides. What a viewer may not see is withheld in these places:
//!
//! - Calls to objects: [`Privacy::hides`], asked by `admission` for each call before zbus gets it. An
//!   object that is hidden answers exactly as one that does not exist.
//! - Lists, counts and introspection: `dbus` filters them by the caller's viewer.
//! - Errors: `dbus/redact` adds a second text to each error that may name others, and the sending
//!   half of `admission` chooses ([`Texts`]).
//! - Signals: `dbus/publish` addresses each signal to the connections that may see it
//!   ([`Privacy::audience`]), and the sending half drops every signal that is addressed to all.
//!
//! The service learns of a connection by its calls alone, so signals go to connections that have
//! called: see [`Privacy::note`].

mod texts;
mod viewers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lock::OwnerId;
use crate::lock::lockspace::LockspaceKind;
use crate::paths;
use crate::service::Service;

pub use texts::Texts;
use viewers::Viewers;

/// The interface that every path answers, whether or not there is an object (D-Bus specification,
/// "org.freedesktop.DBus.Peer").
const PEER: &str = "org.freedesktop.DBus.Peer";

/// Methods after which a connection gets the signals of everything that it may see.
const WATCHING: &[&str] = &["GetManagedObjects", "ListLocks", "ListOwners", "ListWaiting"];

/// One who looks at the service's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Viewer {
    /// The user; `None` for a connection that is not known (any more).
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

    /// The only user whose owners this viewer sees; `None` if it sees those of all users.
    #[must_use]
    pub fn only(self) -> Option<u32> {
        // A viewer that is not known sees what user 2^32-1 has, which is no valid user (chown(2)).
        (!self.sees_all).then(|| self.uid.unwrap_or(u32::MAX))
    }
}

/// To which connections a signal goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// All: the bus distributes it.
    Everyone,
    /// These connections, each with what it may see.
    Viewers(Vec<(Arc<str>, Viewer)>),
}

/// Decides what callers on one connection to a bus may see. A cheap handle.
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
    /// No connection is known. The user `privileged` sees everything, as root does.
    #[must_use]
    pub fn new(service: Service, privileged: u32) -> Self {
        Self(Arc::new(Inner { service, privileged, viewers: Mutex::default() }))
    }

    /// Whether owners are hidden from other users.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.service.is_private()
    }

    /// Whether polkit is to be asked if this user sees everything.
    #[must_use]
    pub fn is_undecided(&self, uid: u32) -> bool {
        self.is_on() && !self.is_privileged(uid)
    }

    fn is_privileged(&self, uid: u32) -> bool {
        uid == 0 || uid == self.0.privileged
    }

    /// Enters a connection, and whether polkit lets it see everything.
    pub fn enter(&self, connection: &str, uid: u32, allowed: bool) {
        let viewer = Viewer { uid: Some(uid), sees_all: allowed || self.is_privileged(uid) };
        self.viewers().enter(connection, viewer);
    }

    /// Enters that a connection has left the bus.
    pub fn leave(&self, connection: &str) {
        self.viewers().leave(connection);
    }

    /// What a connection may see. Without privacy this is everything.
    #[must_use]
    pub fn viewer(&self, connection: &str) -> Viewer {
        if self.is_on() { self.viewers().get(connection) } else { Viewer::ALL }
    }

    /// Notes a call, for the signals that its caller gets from now on while privacy is on: those of
    /// an owner after a call to the object of that owner or of one of its locks; those of everything
    /// that it may see after `Ping` to the Manager's path, or a method that lists.
    pub fn note(&self, connection: &str, path: &str, interface: Option<&str>, member: &str) {
        if path == paths::ROOT {
            if WATCHING.contains(&member) || interface == Some(PEER) && member == "Ping" {
                self.viewers().watch(connection);
            }
        } else if let Some(owner) = self.owner_of(path) {
            self.follow(connection, owner);
        }
    }

    /// Notes that a connection gets the signals of an owner, if it may see it.
    pub fn follow(&self, connection: &str, owner: OwnerId) {
        if self.viewers().is_following(connection, owner) {
            return;
        }
        if self.0.service.read_owner(owner, |_| ()).is_some() {
            self.viewers().follow(connection, owner);
        }
    }

    /// Notes that a connection gets the signals of an owner that it is about to open. To be undone
    /// if that fails.
    pub fn follow_new(&self, connection: &str, owner: OwnerId) {
        self.viewers().follow(connection, owner);
    }

    /// Notes that a connection does not get the signals of an owner any more.
    pub fn unfollow(&self, connection: &str, owner: OwnerId) {
        self.viewers().unfollow(connection, owner);
    }

    /// Forgets who gets the signals of an owner that has ended.
    pub fn forget(&self, owner: OwnerId) {
        self.viewers().forget(owner);
    }

    /// The connections that get a signal about an owner.
    #[must_use]
    pub fn audience(&self, owner: OwnerId) -> Audience {
        if !self.is_on() {
            return Audience::Everyone;
        }
        Audience::Viewers(self.viewers().audience(owner))
    }

    /// The connections that get a signal about a lockspace.
    #[must_use]
    pub fn audience_of_lockspace(&self, kind: LockspaceKind) -> Audience {
        if !self.is_on() {
            return Audience::Everyone;
        }
        let mut watchers = self.viewers().watchers();
        watchers.retain(|(_, viewer)| self.sees_lockspace(*viewer, kind));
        Audience::Viewers(watchers)
    }

    /// Whether a viewer sees a lockspace: those of the configuration are for all; one that clients
    /// named, only if the viewer has a lock there.
    #[must_use]
    pub fn sees_lockspace(&self, viewer: Viewer, kind: LockspaceKind) -> bool {
        let LockspaceKind::Lease(_) = kind else { return true };
        let own = |lock: &crate::lock::Lock| {
            lock.want.lockspace == kind && viewer.may_see(lock.owner.uid)
        };
        viewer.sees_all || self.0.service.count_locks(own) > 0
    }

    /// Whether the object that a call is addressed to is to answer as if it did not exist.
    #[must_use]
    pub fn hides(&self, connection: &str, path: &str, interface: Option<&str>) -> bool {
        // Without an interface the answer is the same whether or not there is an object.
        if interface.is_none_or(|interface| interface == PEER) || !self.is_on() {
            return false;
        }
        let viewer = self.viewers().get(connection);
        !viewer.sees_all && !self.sees_path(viewer, path)
    }

    fn sees_path(&self, viewer: Viewer, path: &str) -> bool {
        let service = &self.0.service;
        let below = |folder: &str| path.strip_prefix(folder).is_some_and(|x| x.starts_with('/'));
        if path == paths::OWNERS {
            service.owner_ids().iter().any(|id| viewer.may_see(id.uid))
        } else if path == paths::LOCKS {
            service.count_locks(|lock| viewer.may_see(lock.owner.uid)) > 0
        } else if below(paths::OWNERS) || below(paths::LOCKS) {
            self.owner_of(path).is_some_and(|owner| viewer.may_see(owner.uid))
        } else if below(paths::LOCKSPACES) {
            let kinds = service.lockspaces().into_iter().map(|(kind, _)| kind);
            let mut hidden = kinds.filter(|kind| !self.sees_lockspace(viewer, *kind));
            !hidden.any(|kind| paths::lockspace(kind).as_str() == path)
        } else {
            true
        }
    }

    /// The owner that an object is, or belongs to.
    fn owner_of(&self, path: &str) -> Option<OwnerId> {
        let of_lock = || self.0.service.lock_owner(paths::lock_number(path)?);
        paths::owner_id(path).or_else(of_lock)
    }

    fn viewers(&self) -> MutexGuard<'_, Viewers> {
        self.0.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

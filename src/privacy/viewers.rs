//! The connections that have called: what each may see, and the signals to which it is subscribed.
//!
//! Performs no I/O. All sizes are bounded: the bus bounds the connections of a user, and the
//! constants below bound the subscriptions, since each signal is sent once to each subscribed
//! connection.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Viewer;
use crate::lock::OwnerId;

/// The number of connections of a user that receive the signals of everything that it may see.
const WATCHERS: usize = 16;
/// The number of such connections of a user that sees everything: an administrator runs more tools.
const WATCHERS_OF_ALL: usize = 64;
/// The number of connections that follow one owner, besides watchers.
const FOLLOWERS: usize = 16;
/// The number of owners that one connection follows.
const FOLLOWED: usize = 1024;

/// A connection.
#[derive(Debug)]
struct ViewerEntry {
    viewer: Viewer,
    /// It receives the signals of everything that it may see.
    watches: bool,
    /// The owners whose signals it receives.
    follows: BTreeSet<OwnerId>,
}

/// All connections that have called and are on the bus.
#[derive(Debug, Default)]
pub(super) struct Viewers {
    entries: HashMap<Arc<str>, ViewerEntry>,
    /// The watchers of each user, in order of arrival.
    watchers: BTreeMap<Option<u32>, Vec<Arc<str>>>,
    followers: HashMap<OwnerId, Vec<Arc<str>>>,
}

impl Viewers {
    /// Adds a connection, or changes what it may see.
    pub(super) fn set(&mut self, connection: &str, viewer: Viewer) {
        if let Some(entry) = self.entries.get_mut(connection) {
            entry.viewer = viewer;
            return;
        }
        let entry = ViewerEntry { viewer, watches: false, follows: BTreeSet::new() };
        self.entries.insert(connection.into(), entry);
    }

    /// Removes a connection.
    pub(super) fn remove(&mut self, connection: &str) {
        let Some(ViewerEntry { viewer, watches, follows }) = self.entries.remove(connection) else {
            return;
        };
        if watches && let Some(watchers) = self.watchers.get_mut(&viewer.uid) {
            watchers.retain(|name| **name != *connection);
            if watchers.is_empty() {
                self.watchers.remove(&viewer.uid);
            }
        }
        for owner in follows {
            self.unfollow(connection, owner);
        }
    }

    /// Returns what a connection may see: nothing if it is unknown.
    pub(super) fn get(&self, connection: &str) -> Viewer {
        let nothing = Viewer { uid: None, sees_all: false };
        self.entries.get(connection).map_or(nothing, |entry| entry.viewer)
    }

    /// Subscribes a connection to the signals of everything that it may see, unless its user has
    /// too many such connections.
    pub(super) fn watch(&mut self, connection: &str) {
        let Some((name, _)) = self.entries.get_key_value(connection) else { return };
        let name = Arc::clone(name);
        let Some(entry) = self.entries.get_mut(connection).filter(|entry| !entry.watches) else {
            return;
        };
        let watchers = self.watchers.entry(entry.viewer.uid).or_default();
        let most = if entry.viewer.sees_all { WATCHERS_OF_ALL } else { WATCHERS };
        if watchers.len() < most {
            entry.watches = true;
            watchers.push(name);
        } else {
            tracing::debug!(
                uid = entry.viewer.uid,
                "no signals are sent to a connection: too many connections receive signals"
            );
        }
    }

    /// Whether a connection is subscribed to the signals of an owner.
    pub(super) fn is_following(&self, connection: &str, owner: OwnerId) -> bool {
        self.entries.get(connection).is_some_and(|entry| entry.follows.contains(&owner))
    }

    /// Subscribes a connection to the signals of an owner, if it may see the owner and both are
    /// within their limits.
    pub(super) fn follow(&mut self, connection: &str, owner: OwnerId) {
        let Some((name, _)) = self.entries.get_key_value(connection) else { return };
        let name = Arc::clone(name);
        let Some(entry) = self.entries.get_mut(connection) else { return };
        if !entry.viewer.may_see(owner.uid) || entry.follows.len() >= FOLLOWED {
            return;
        }
        let followers = self.followers.entry(owner).or_default();
        if followers.len() < FOLLOWERS && entry.follows.insert(owner) {
            followers.push(name);
        }
    }

    /// Unsubscribes a connection from the signals of an owner.
    pub(super) fn unfollow(&mut self, connection: &str, owner: OwnerId) {
        if let Some(entry) = self.entries.get_mut(connection) {
            entry.follows.remove(&owner);
        }
        if let Some(followers) = self.followers.get_mut(&owner) {
            followers.retain(|name| **name != *connection);
            if followers.is_empty() {
                self.followers.remove(&owner);
            }
        }
    }

    /// Removes the subscriptions to an owner.
    pub(super) fn remove_owner(&mut self, owner: OwnerId) {
        for name in self.followers.remove(&owner).unwrap_or_default() {
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.follows.remove(&owner);
            }
        }
    }

    /// Returns all connections that receive the signals of everything that they may see.
    pub(super) fn watchers(&self) -> Vec<(Arc<str>, Viewer)> {
        let names = self.watchers.values().flatten();
        names.map(|name| (Arc::clone(name), self.get(name))).collect()
    }

    /// Returns the connections that receive a signal about an owner, each once.
    pub(super) fn audience(&self, owner: OwnerId) -> Vec<(Arc<str>, Viewer)> {
        let mut audience = self.watchers();
        let watches = |name: &str| self.entries.get(name).is_some_and(|entry| entry.watches);
        let followers = self.followers.get(&owner).into_iter().flatten();
        let more = followers.filter(|name| !watches(name));
        audience.extend(more.map(|name| (Arc::clone(name), self.get(name))));
        audience.retain(|(_, viewer)| viewer.may_see(owner.uid));
        audience
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn user(uid: u32) -> Viewer {
        Viewer { uid: Some(uid), sees_all: uid == 0 }
    }

    fn owner(uid: u32, n: u128) -> OwnerId {
        OwnerId::new(uid, Uuid::from_u128(n))
    }

    fn names(viewers: &Viewers, owner: OwnerId) -> Vec<String> {
        viewers.audience(owner).into_iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn only_viewers_that_may_see_an_owner_receive_its_signals() {
        let mut viewers = Viewers::default();
        for (name, uid) in [(":1.0", 0), (":1.1", 1), (":1.2", 2)] {
            viewers.set(name, user(uid));
            viewers.watch(name);
        }
        assert_eq!(names(&viewers, owner(1, 1)), [":1.0", ":1.1"]);
        assert_eq!(names(&viewers, owner(2, 1)), [":1.0", ":1.2"]);
        assert_eq!(names(&viewers, owner(3, 1)), [":1.0"]);
        // A new decision of polkit changes what a connection may see.
        viewers.set(":1.2", Viewer { uid: Some(2), sees_all: true });
        assert_eq!(names(&viewers, owner(1, 1)), [":1.0", ":1.1", ":1.2"]);
        viewers.remove(":1.0");
        viewers.remove(":1.1");
        assert_eq!(names(&viewers, owner(1, 1)), [":1.2"]);
        assert!(!viewers.get(":1.0").may_see(0));
    }

    #[test]
    fn a_follower_receives_the_signals_of_its_owner_once_and_of_no_other() {
        let mut viewers = Viewers::default();
        viewers.set(":1.1", user(1));
        let (mine, other, foreign) = (owner(1, 1), owner(1, 2), owner(2, 1));
        viewers.follow(":1.1", mine);
        viewers.follow(":1.1", foreign);
        assert!(viewers.is_following(":1.1", mine) && !viewers.is_following(":1.1", foreign));
        assert_eq!(names(&viewers, mine), [":1.1"]);
        assert!(names(&viewers, other).is_empty() && names(&viewers, foreign).is_empty());
        viewers.watch(":1.1");
        assert_eq!(names(&viewers, mine), [":1.1"]);
        viewers.remove_owner(mine);
        assert!(!viewers.is_following(":1.1", mine));
        viewers.follow(":1.1", mine);
        viewers.remove(":1.1");
        assert!(viewers.followers.is_empty() && viewers.watchers.is_empty());
    }

    #[test]
    fn the_connections_that_receive_a_signal_are_bounded() {
        let mut viewers = Viewers::default();
        let all = || (0..200).map(|n| (n, format!(":1.{n}")));
        for (n, name) in all() {
            viewers.set(&name, user(n % 2));
            viewers.watch(&name);
        }
        assert_eq!(viewers.watchers().len(), WATCHERS + WATCHERS_OF_ALL);
        for (_, name) in all() {
            viewers.follow(&name, owner(1, 1));
        }
        assert_eq!(viewers.followers[&owner(1, 1)].len(), FOLLOWERS);
        // A watcher that disconnects makes room for another.
        viewers.remove(":1.1");
        viewers.watch(":1.199");
        assert!(viewers.watchers().iter().any(|(name, _)| &**name == ":1.199"));
        for (_, name) in all() {
            viewers.remove(&name);
        }
        assert!(viewers.entries.is_empty() && viewers.watchers.is_empty());
        assert!(viewers.followers.is_empty());
    }
}

//! The connections that have called, what each may see, and which signals it gets.
//!
//! Touches nothing. Everything is bounded: by the bus, which bounds the connections of a user, and
//! by the constants below, since each signal is sent once for each connection that gets it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Viewer;
use crate::lock::OwnerId;

/// How many connections of one user get the signals of everything that the user may see.
const WATCHERS: usize = 16;
/// The same for a user that sees everything: an administrator has more tools.
const WATCHERS_OF_ALL: usize = 64;
/// How many connections get the signals of one owner, besides those that get all.
const FOLLOWERS: usize = 16;
/// How many owners one connection follows.
const FOLLOWED: usize = 1024;

#[derive(Debug)]
struct Known {
    viewer: Viewer,
    watches: bool,
    follows: BTreeSet<OwnerId>,
}

/// All connections that have called and are on the bus.
#[derive(Debug, Default)]
pub(super) struct Viewers {
    known: HashMap<Arc<str>, Known>,
    /// In the order in which they came, by user.
    watchers: BTreeMap<Option<u32>, Vec<Arc<str>>>,
    followers: HashMap<OwnerId, Vec<Arc<str>>>,
}

impl Viewers {
    /// Enters a connection, or changes what it may see.
    pub(super) fn enter(&mut self, connection: &str, viewer: Viewer) {
        if let Some(known) = self.known.get_mut(connection) {
            known.viewer = viewer;
            return;
        }
        let known = Known { viewer, watches: false, follows: BTreeSet::new() };
        self.known.insert(connection.into(), known);
    }

    /// Removes a connection.
    pub(super) fn leave(&mut self, connection: &str) {
        let Some(Known { viewer, watches, follows }) = self.known.remove(connection) else {
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

    /// What a connection may see; nothing if it is not known.
    pub(super) fn get(&self, connection: &str) -> Viewer {
        let nothing = Viewer { uid: None, sees_all: false };
        self.known.get(connection).map_or(nothing, |known| known.viewer)
    }

    /// Enters that a connection gets the signals of everything that it may see, unless its user has
    /// too many such connections.
    pub(super) fn watch(&mut self, connection: &str) {
        let Some((name, _)) = self.known.get_key_value(connection) else { return };
        let name = Arc::clone(name);
        let Some(known) = self.known.get_mut(connection).filter(|known| !known.watches) else {
            return;
        };
        let watchers = self.watchers.entry(known.viewer.uid).or_default();
        let most = if known.viewer.sees_all { WATCHERS_OF_ALL } else { WATCHERS };
        if watchers.len() < most {
            known.watches = true;
            watchers.push(name);
        } else {
            tracing::debug!(
                uid = known.viewer.uid,
                "no signals are sent to a connection: too many connections receive signals"
            );
        }
    }

    /// Whether a connection gets the signals of an owner already.
    pub(super) fn is_following(&self, connection: &str, owner: OwnerId) -> bool {
        self.known.get(connection).is_some_and(|known| known.follows.contains(&owner))
    }

    /// Enters that a connection gets the signals of an owner, if it may see that and neither has
    /// too many of the other.
    pub(super) fn follow(&mut self, connection: &str, owner: OwnerId) {
        let Some((name, _)) = self.known.get_key_value(connection) else { return };
        let name = Arc::clone(name);
        let Some(known) = self.known.get_mut(connection) else { return };
        if !known.viewer.may_see(owner.uid) || known.follows.len() >= FOLLOWED {
            return;
        }
        let followers = self.followers.entry(owner).or_default();
        if followers.len() < FOLLOWERS && known.follows.insert(owner) {
            followers.push(name);
        }
    }

    /// Enters that a connection does not get the signals of an owner any more.
    pub(super) fn unfollow(&mut self, connection: &str, owner: OwnerId) {
        if let Some(known) = self.known.get_mut(connection) {
            known.follows.remove(&owner);
        }
        if let Some(followers) = self.followers.get_mut(&owner) {
            followers.retain(|name| **name != *connection);
            if followers.is_empty() {
                self.followers.remove(&owner);
            }
        }
    }

    /// Forgets the connections that get the signals of an owner.
    pub(super) fn forget(&mut self, owner: OwnerId) {
        for name in self.followers.remove(&owner).unwrap_or_default() {
            if let Some(known) = self.known.get_mut(&name) {
                known.follows.remove(&owner);
            }
        }
    }

    /// All connections that get the signals of what they may see.
    pub(super) fn watchers(&self) -> Vec<(Arc<str>, Viewer)> {
        let names = self.watchers.values().flatten();
        names.map(|name| (Arc::clone(name), self.get(name))).collect()
    }

    /// The connections that get a signal about an owner, each once.
    pub(super) fn audience(&self, owner: OwnerId) -> Vec<(Arc<str>, Viewer)> {
        let mut audience = self.watchers();
        let watches = |name: &str| self.known.get(name).is_some_and(|known| known.watches);
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
    fn only_viewers_that_may_see_an_owner_get_its_signals() {
        let mut viewers = Viewers::default();
        for (name, uid) in [(":1.0", 0), (":1.1", 1), (":1.2", 2)] {
            viewers.enter(name, user(uid));
            viewers.watch(name);
        }
        assert_eq!(names(&viewers, owner(1, 1)), [":1.0", ":1.1"]);
        assert_eq!(names(&viewers, owner(2, 1)), [":1.0", ":1.2"]);
        assert_eq!(names(&viewers, owner(3, 1)), [":1.0"]);
        // What it may see changes with a new decision of polkit.
        viewers.enter(":1.2", Viewer { uid: Some(2), sees_all: true });
        assert_eq!(names(&viewers, owner(1, 1)), [":1.0", ":1.1", ":1.2"]);
        viewers.leave(":1.0");
        viewers.leave(":1.1");
        assert_eq!(names(&viewers, owner(1, 1)), [":1.2"]);
        assert!(!viewers.get(":1.0").may_see(0));
    }

    #[test]
    fn a_follower_gets_the_signals_of_its_owner_once_and_of_no_other() {
        let mut viewers = Viewers::default();
        viewers.enter(":1.1", user(1));
        let (mine, other, foreign) = (owner(1, 1), owner(1, 2), owner(2, 1));
        viewers.follow(":1.1", mine);
        viewers.follow(":1.1", foreign);
        assert!(viewers.is_following(":1.1", mine) && !viewers.is_following(":1.1", foreign));
        assert_eq!(names(&viewers, mine), [":1.1"]);
        assert!(names(&viewers, other).is_empty() && names(&viewers, foreign).is_empty());
        viewers.watch(":1.1");
        assert_eq!(names(&viewers, mine), [":1.1"]);
        viewers.forget(mine);
        assert!(!viewers.is_following(":1.1", mine));
        viewers.follow(":1.1", mine);
        viewers.leave(":1.1");
        assert!(viewers.followers.is_empty() && viewers.watchers.is_empty());
    }

    #[test]
    fn the_connections_that_get_a_signal_are_bounded() {
        let mut viewers = Viewers::default();
        let all = || (0..200).map(|n| (n, format!(":1.{n}")));
        for (n, name) in all() {
            viewers.enter(&name, user(n % 2));
            viewers.watch(&name);
        }
        assert_eq!(viewers.watchers().len(), WATCHERS + WATCHERS_OF_ALL);
        for (_, name) in all() {
            viewers.follow(&name, owner(1, 1));
        }
        assert_eq!(viewers.followers[&owner(1, 1)].len(), FOLLOWERS);
        // One that leaves makes room.
        viewers.leave(":1.1");
        viewers.watch(":1.199");
        assert!(viewers.watchers().iter().any(|(name, _)| &**name == ":1.199"));
        for (_, name) in all() {
            viewers.leave(&name);
        }
        assert!(viewers.known.is_empty() && viewers.watchers.is_empty());
        assert!(viewers.followers.is_empty());
    }
}

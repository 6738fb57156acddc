//! The names of users.
//!
//! The user database may be on the network and hang, and any user can cause lookups: by a refused
//! request or by a query for the holder of a disk. So one user is looked up by one thread at a
//! time, and not again while that lookup hangs, and no user is looked up while several lookups
//! hang; the number then replaces the name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sync;

/// A lookup that takes this long hangs.
const HUNG: Duration = Duration::from_secs(1);
/// How many lookups may hang before no further one starts.
const HUNG_MAX: usize = 4;

/// How long a cached name is valid.
const FRESH: Duration = Duration::from_secs(60);
/// The size of the cache; further users are looked up each time.
const REMEMBERED: usize = 1024;

/// The cache of names that were looked up recently.
static KNOWN: Mutex<Option<HashMap<u32, (String, Instant)>>> = Mutex::new(None);

/// The lookups in the user database.
static LOOKUPS: Lookups = Lookups { running: Mutex::new(BTreeMap::new()), ended: Condvar::new() };

#[derive(Debug)]
struct Lookups {
    /// The users that are being looked up, each with the time from which its lookup counts as hung.
    running: Mutex<BTreeMap<u32, Instant>>,
    ended: Condvar,
}

impl Lookups {
    /// Returns a user's name; `None` if there is none or the lookup hangs.
    fn name(&self, uid: u32, look_up: impl FnOnce(u32) -> Option<String>) -> Option<String> {
        let mut running = sync::lock(&self.running);
        loop {
            let now = Instant::now();
            if running.values().filter(|hangs_at| **hangs_at <= now).count() >= HUNG_MAX {
                return None;
            }
            let Some(hangs_at) = running.get(&uid) else { break };
            let left = hangs_at.saturating_duration_since(now);
            if left.is_zero() {
                return None;
            }
            let waited = self.ended.wait_timeout(running, left);
            running = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        running.insert(uid, Instant::now() + HUNG);
        drop(running);
        let name = look_up(uid);
        sync::lock(&self.running).remove(&uid);
        self.ended.notify_all();
        name
    }
}

/// Returns a user's name, or the number if there is none. The user database may be on the network.
pub(in crate::service) fn user_name(uid: u32) -> String {
    let look_up = |uid: u32| nix::unistd::User::from_uid(uid.into()).ok().flatten();
    // No such user, or the user database fails: the number identifies the user too.
    let name = LOOKUPS.name(uid, |uid| look_up(uid).map(|user| user.name));
    name.unwrap_or_else(|| uid.to_string())
}

/// Returns a user's name for a frequent caller: it is cached, so up to one minute old.
pub(in crate::service) fn recent_name(uid: u32) -> String {
    let now = Instant::now();
    let known = || sync::lock(&KNOWN);
    let recent = known().as_ref().and_then(|known| {
        let (name, when) = known.get(&uid)?;
        (now.duration_since(*when) < FRESH).then(|| name.clone())
    });
    if let Some(name) = recent {
        return name;
    }
    let name = user_name(uid);
    let mut known = known();
    let known = known.get_or_insert_default();
    if known.len() >= REMEMBERED {
        known.clear();
    }
    known.insert(uid, (name.clone(), now));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_name_is_the_same() {
        assert_eq!((user_name(0), recent_name(0)), ("root".to_owned(), "root".to_owned()));
        assert_eq!(recent_name(0), "root");
        assert_eq!(recent_name(4_000_000_000), "4000000000");
    }

    #[test]
    fn hung_lookups_occupy_few_threads() {
        use std::sync::mpsc::channel;
        let lookups = Lookups { running: Mutex::default(), ended: Condvar::new() };
        let name = |name: &str| Some(name.to_owned());
        std::thread::scope(|scope| {
            let mut gates = Vec::new();
            for uid in 0..3 {
                let (go_on, gate) = channel::<()>();
                let (begun, begins) = channel();
                gates.push(go_on);
                let lookups = &lookups;
                scope.spawn(move || {
                    lookups.name(uid, |_| {
                        begun.send(()).unwrap();
                        let _ = gate.recv();
                        None
                    })
                });
                begins.recv().unwrap();
            }
            // Waits until that lookup hangs, and starts no other one.
            assert_eq!(lookups.name(2, |_| panic!("looked up twice")), None);
            assert_eq!(lookups.name(9, |_| name("web")), name("web"));
            let hangs_at = Instant::now();
            lookups.running.lock().unwrap().insert(3, hangs_at);
            assert_eq!(lookups.name(9, |_| panic!("one more lookup")), None);
            lookups.running.lock().unwrap().remove(&3);
            drop(gates);
        });
        assert_eq!(lookups.name(2, |_| name("db")), name("db"));
    }
}

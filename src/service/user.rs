//! The names of users.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a name is taken for what it was.
const FRESH: Duration = Duration::from_secs(60);
/// How many are remembered; more are looked up each time.
const REMEMBERED: usize = 1024;

/// Names that were looked up a short while ago.
static KNOWN: Mutex<Option<HashMap<u32, (String, Instant)>>> = Mutex::new(None);

/// A user's name, or the number where there is none. The user database may be on the network.
pub(super) fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        // No such user, or a user database that fails: the number says it too.
        Ok(None) | Err(_) => uid.to_string(),
    }
}

/// The same, for who asks often: it may be out of date by a minute.
pub(super) fn recent_name(uid: u32) -> String {
    let now = Instant::now();
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
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
    fn names_are_the_same_twice() {
        assert_eq!((user_name(0), recent_name(0)), ("root".to_owned(), "root".to_owned()));
        assert_eq!(recent_name(0), "root");
        assert_eq!(recent_name(4_000_000_000), "4000000000");
    }
}

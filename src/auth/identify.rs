//! Identification of connections: the user of each, and whether it may view other users' owners.
//!
//! Both are decided before the first call of a connection is processed. The second needs a check to
//! polkit, without a dialog, and only while owners are hidden from other users. The check is made
//! for each connection of an ordinary user when it first calls, and again for all connections when
//! the configuration is reloaded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use zbus::names::UniqueName;

use super::Error;
use super::action::{Action, Details};
use super::authorizer::{Authorizer, Rule};
use super::bus_driver::DEADLINES;
use super::caller::Caller;
use super::check_queue::CheckQueue;
use crate::admission::{Admission, IdentificationError, UserLookups};

/// The number of first lookups in progress at one time, and the number of retries.
const LOOKUPS: usize = 64;
/// How long polkit may take for one check. After that a connection may view the owners of its own
/// user only.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The lookup of a connection.
#[derive(Debug)]
struct Lookup {
    name: Arc<str>,
    /// The number of attempts to which the bus did not reply.
    timeouts: usize,
}

impl Authorizer {
    /// Identifies connections until `requests` is closed. A connection whose user needs no check
    /// never waits for a connection of another user. A lookup to which the bus does not reply in
    /// time is retried, with lower priority than first lookups; after the last attempt the calls of
    /// the connection are refused, and its next call starts a new lookup.
    pub async fn identify_all(self, admission: Admission, mut requests: UserLookups) {
        let (mut lookups, mut retries) = (JoinSet::new(), JoinSet::new());
        let mut to_retry = VecDeque::<Lookup>::new();
        let (mut queue, mut checks) = (CheckQueue::default(), JoinSet::new());
        loop {
            while let Some(caller) = queue.pop() {
                checks.spawn(self.clone().check_view(caller));
            }
            while retries.len() < LOOKUPS
                && let Some(lookup) = to_retry.pop_front()
            {
                retries.spawn(self.clone().look_up(lookup));
            }
            let found = tokio::select! {
                Some(name) = requests.recv(), if lookups.len() < LOOKUPS => {
                    lookups.spawn(self.clone().look_up(Lookup { name, timeouts: 0 }));
                    continue;
                }
                Some(found) = lookups.join_next() => found,
                Some(found) = retries.join_next() => found,
                Some(checked) = checks.join_next() => {
                    match checked {
                        Ok((caller, allowed)) => {
                            queue.finish(caller.uid);
                            self.finish_identification(&admission, &caller, allowed);
                        }
                        Err(error) => tracing::error!(%error, "cannot query polkit"),
                    }
                    continue;
                }
                else => break,
            };
            match found {
                Ok((_, Ok(caller))) if self.privacy.needs_check(caller.uid) => {
                    queue.push(caller);
                }
                Ok((_, Ok(caller))) => self.finish_identification(&admission, &caller, false),
                Ok((lookup, Err(Error::BusTimeout))) if lookup.timeouts < DEADLINES.len() => {
                    to_retry.push_back(lookup);
                }
                Ok((lookup, Err(Error::BusTimeout))) => {
                    tracing::warn!(
                        connection = &*lookup.name,
                        "refusing calls of connection {}: cannot identify its user, because the bus \
                         is not responding",
                        lookup.name
                    );
                    admission.set_user(&lookup.name, Err(IdentificationError::TimedOut));
                }
                Ok((lookup, Err(_))) => {
                    admission.set_user(&lookup.name, Err(IdentificationError::NotFound));
                }
                Err(error) => tracing::error!(%error, "cannot identify a caller"),
            }
        }
    }

    /// Makes one attempt to look up a connection, and counts a timeout in the lookup.
    async fn look_up(self, mut lookup: Lookup) -> (Lookup, Result<Caller, Error>) {
        let deadline = DEADLINES.get(lookup.timeouts).copied().unwrap_or(DEADLINES[0]);
        let found = match UniqueName::try_from(&*lookup.name) {
            Ok(name) => self.callers.identify_within(&name, deadline).await,
            Err(_) => Err(Error::CallerGone),
        };
        lookup.timeouts += usize::from(matches!(found, Err(Error::BusTimeout)));
        (lookup, found)
    }

    /// Repeats the check for every client, since the configuration or polkit's rules may have
    /// changed.
    pub async fn recheck_views(self) {
        let callers = self.callers.all().into_iter();
        for caller in callers.filter(|caller| self.privacy.needs_check(caller.uid)) {
            let (caller, allowed) = self.clone().check_view(caller).await;
            self.set_view(&caller, allowed);
        }
    }

    fn finish_identification(&self, admission: &Admission, caller: &Caller, allowed: bool) {
        self.set_view(caller, allowed);
        admission.set_user(&caller.name, Ok(caller.uid));
    }

    fn set_view(&self, caller: &Caller, allowed: bool) {
        self.privacy.set_viewer(&caller.name, caller.uid, allowed);
        // A client that disconnects is removed from `callers` before it is removed from `privacy`.
        if !caller.is_connected() {
            self.privacy.remove_viewer(&caller.name);
        }
    }

    /// Checks whether a client may view what belongs to other users.
    async fn check_view(self, caller: Caller) -> (Caller, bool) {
        let allowed = match &*self.rule {
            Rule::Session(_) => false,
            Rule::System(polkit) => {
                let (mut subject, details) = (caller.clone(), Details::new());
                let view = Action::ViewForeign;
                polkit
                    .check_within(CHECK_TIMEOUT, &mut subject, view, &details, false)
                    .await
                    .is_ok()
            }
        };
        (caller, allowed)
    }
}

//! Finds out which user each connection belongs to, and whether it may see what is other users'.
//!
//! Both are decided before the first call of a connection is let in. The second is a question to
//! polkit, without a dialog, and asked only while owners are hidden from other users: of connections
//! of ordinary users when they first call, and of those that are there when the configuration is
//! loaded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use zbus::names::UniqueName;

use super::Error;
use super::caller::Caller;
use super::deed::{Action, Details};
use super::gate::{Gate, Rule};
use super::names::DEADLINES;
use super::questions::Questions;
use crate::admission::{Admission, Unidentified, Unknown};

/// How many connections are looked up for the first time at one time, and as many again of those for
/// which the bus did not answer before.
const LOOKUPS: usize = 64;
/// How long polkit may take for one question about what a connection may see. Without an answer a
/// connection sees its own owners.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that is to be looked up.
#[derive(Debug)]
struct Lookup {
    name: Arc<str>,
    /// How often the bus did not answer.
    unanswered: usize,
}

impl Gate {
    /// Identifies connections for as long as there are any. A connection whose user needs no
    /// question to polkit never waits for one of another user. Where the bus does not answer in time
    /// it is asked again, after connections that it was not asked about; in the end the calls of the
    /// connection are refused, and the next one begins anew.
    pub async fn identify_all(self, admission: Admission, mut unknown: Unknown) {
        let (mut first, mut repeated) = (JoinSet::new(), JoinSet::new());
        let mut unanswered = VecDeque::<Lookup>::new();
        let (mut questions, mut asked) = (Questions::default(), JoinSet::new());
        loop {
            while let Some(caller) = questions.take() {
                asked.spawn(self.clone().decide(caller));
            }
            while repeated.len() < LOOKUPS
                && let Some(lookup) = unanswered.pop_front()
            {
                repeated.spawn(self.clone().look_up(lookup));
            }
            let found = tokio::select! {
                Some(name) = unknown.recv(), if first.len() < LOOKUPS => {
                    first.spawn(self.clone().look_up(Lookup { name, unanswered: 0 }));
                    continue;
                }
                Some(found) = first.join_next() => found,
                Some(found) = repeated.join_next() => found,
                Some(decided) = asked.join_next() => {
                    match decided {
                        Ok((caller, allowed)) => {
                            questions.answered(caller.uid);
                            self.admit(&admission, &caller, allowed);
                        }
                        Err(error) => tracing::error!(%error, "cannot query polkit"),
                    }
                    continue;
                }
                else => break,
            };
            match found {
                Ok((_, Ok(caller))) if self.privacy.is_undecided(caller.uid) => {
                    questions.push(caller);
                }
                Ok((_, Ok(caller))) => self.admit(&admission, &caller, false),
                Ok((lookup, Err(Error::Unanswered))) if lookup.unanswered < DEADLINES.len() => {
                    unanswered.push_back(lookup);
                }
                Ok((lookup, Err(Error::Unanswered))) => {
                    tracing::warn!(
                        connection = &*lookup.name,
                        "refusing calls of connection {}: cannot identify its user, because the bus \
                         is not responding",
                        lookup.name
                    );
                    admission.identified(&lookup.name, Err(Unidentified::Unanswered));
                }
                Ok((lookup, Err(_))) => {
                    admission.identified(&lookup.name, Err(Unidentified::Untold));
                }
                Err(error) => tracing::error!(%error, "cannot identify a caller"),
            }
        }
    }

    /// Asks the bus about a connection once, and counts in the lookup if it does not answer.
    async fn look_up(self, mut lookup: Lookup) -> (Lookup, Result<Caller, Error>) {
        let deadline = DEADLINES.get(lookup.unanswered).copied().unwrap_or(DEADLINES[0]);
        let found = match UniqueName::try_from(&*lookup.name) {
            Ok(name) => self.callers.identify_within(&name, deadline).await,
            Err(_) => Err(Error::CallerGone),
        };
        lookup.unanswered += usize::from(matches!(found, Err(Error::Unanswered)));
        (lookup, found)
    }

    /// Decides again what those callers may see that are there, since the rules may be others.
    pub async fn decide_again(self) {
        let callers = self.callers.all().into_iter();
        for caller in callers.filter(|caller| self.privacy.is_undecided(caller.uid)) {
            let (caller, allowed) = self.clone().decide(caller).await;
            self.enter_viewer(&caller, allowed);
        }
    }

    fn admit(&self, admission: &Admission, caller: &Caller, allowed: bool) {
        self.enter_viewer(caller, allowed);
        admission.identified(&caller.name, Ok(caller.uid));
    }

    fn enter_viewer(&self, caller: &Caller, allowed: bool) {
        self.privacy.enter(&caller.name, caller.uid, allowed);
        // The news that it has left is entered after this is known.
        if !caller.is_here() {
            self.privacy.leave(&caller.name);
        }
    }

    /// Asks polkit whether a caller may see what belongs to other users.
    async fn decide(self, caller: Caller) -> (Caller, bool) {
        let allowed = match &*self.rule {
            Rule::Own(_) => false,
            Rule::System(polkit) => {
                let (mut asking, details) = (caller.clone(), Details::new());
                let view = Action::ViewForeign;
                polkit.ask_within(PATIENCE, &mut asking, view, &details, false).await.is_ok()
            }
        };
        (caller, allowed)
    }
}

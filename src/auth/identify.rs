//! Finds out which user each connection belongs to, and whether it may see what is other users'.
//!
//! Both are decided before the first call of a connection is let in. The second is a question to
//! polkit, without a dialog, and asked only while owners are hidden from other users: of connections
//! of ordinary users when they first call, and of those that are there when the configuration is
//! loaded.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::JoinSet;
use zbus::names::UniqueName;

use super::caller::Caller;
use super::deed::{Action, Details};
use super::gate::{Gate, Rule};
use crate::admission::{Admission, Unknown};

/// How many connections are looked up at one time.
const LOOKUPS: usize = 64;
/// How many questions to polkit about what a connection may see are open at one time.
const QUESTIONS: usize = 8;
/// How long polkit may take for one of them. Without an answer a connection sees its own owners.
const PATIENCE: Duration = Duration::from_secs(5);

impl Gate {
    /// Identifies connections for as long as there are any. A connection whose user needs no
    /// question to polkit never waits for one of another user.
    pub async fn identify_all(self, admission: Admission, mut unknown: Unknown) {
        let (mut lookups, mut undecided) = (JoinSet::new(), VecDeque::<Caller>::new());
        let mut questions = JoinSet::new();
        loop {
            while questions.len() < QUESTIONS
                && let Some(caller) = undecided.pop_front()
            {
                questions.spawn(self.clone().decide(caller));
            }
            tokio::select! {
                Some(name) = unknown.recv(), if lookups.len() < LOOKUPS => {
                    let callers = self.callers.clone();
                    lookups.spawn(async move {
                        let caller = match UniqueName::try_from(&*name) {
                            Ok(name) => callers.identify(&name).await.ok(),
                            Err(_) => None,
                        };
                        (name, caller)
                    });
                }
                Some(found) = lookups.join_next() => match found {
                    Ok((_, Some(caller))) if self.privacy.is_undecided(caller.uid) => {
                        undecided.push_back(caller);
                    }
                    Ok((_, Some(caller))) => self.admit(&admission, &caller, false),
                    Ok((name, None)) => admission.identified(&name, None),
                    Err(error) => tracing::error!(%error, "identifying a caller failed"),
                },
                Some(decided) = questions.join_next() => match decided {
                    Ok((caller, allowed)) => self.admit(&admission, &caller, allowed),
                    Err(error) => tracing::error!(%error, "asking polkit failed"),
                },
                else => break,
            }
        }
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
        admission.identified(&caller.name, Some(caller.uid));
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

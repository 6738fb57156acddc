//! Whether the names of locks still lead to their disks: looked up when somebody asks.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::timeout;

use super::Service;
use super::lanes::route::Followed;
use crate::lock::Want;
use crate::lock::name_state::{CheckName, NameState};
use crate::lock::work::Work;

/// How long remote storage may take for all names of one question; what is not known by then is not
/// told.
const LIMIT: Duration = Duration::from_secs(5);

/// Looks up the names that lead to local storage; the others come back.
struct CheckLocal {
    service: Service,
    checks: Vec<CheckName>,
}

impl Work for CheckLocal {
    type Answer = (HashMap<CheckName, NameState>, Vec<CheckName>);

    fn perform(self) -> Self::Answer {
        let (mut states, mut remote) = (HashMap::new(), Vec::new());
        for check in self.checks {
            if states.contains_key(&check) {
                continue;
            }
            let entered = self.service.storage().enter_local(&check.asks());
            match entered {
                Ok(_entered) => {
                    if let Some(state) = check.clone().perform() {
                        states.insert(check, state);
                    }
                }
                Err(Followed::Remote(_)) => remote.push(check),
                // Too many requests hang there; this one is not told.
                Err(_) => {}
            }
        }
        (states, remote)
    }
}

impl Service {
    /// Returns where the names of these disks lead, in their order; `None` where a disk has no name or
    /// its storage does not tell.
    pub async fn name_states(&self, wants: impl Iterator<Item = &Want>) -> Vec<Option<NameState>> {
        let checks: Vec<Option<CheckName>> = wants.map(CheckName::new).collect();
        let all = checks.iter().flatten().cloned().collect();
        let local = CheckLocal { service: self.clone(), checks: all };
        let Ok((mut states, remote)) = self.storage().run(local).await else {
            return vec![None; checks.len()];
        };
        let ask = async {
            for check in remote {
                if states.contains_key(&check) {
                    continue;
                }
                if let Ok(Some(state)) = self.storage().run(check.clone()).await {
                    states.insert(check, state);
                }
            }
        };
        // What has been found out by then is told.
        let _ = timeout(LIMIT, ask).await;
        checks.iter().map(|check| states.get(check.as_ref()?).copied()).collect()
    }
}

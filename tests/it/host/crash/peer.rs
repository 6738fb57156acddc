//! One of the two machines between which disks pass.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use vmlockd::client::OwnerProxy;
use zbus::OwnedObjectPath;
use zbus::proxy::CacheProperties;

use super::scenario::Scenario;
use crate::host::soak::retry::call_until_answered;
use crate::methods::none;

/// The anchor of a VM, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A process, which is killed.
    Process,
    /// A lifeline, which is dropped.
    Lifeline,
    /// Its owner is closed, and its process lives.
    Close,
}

/// The holder of a lifeline is outside of the host, so that it could not be found again without a
/// store.
pub(super) const ALL_ANCHORS: [By; 3] = [By::Process, By::Close, By::Lifeline];

enum Anchor {
    Lifeline(#[allow(dead_code, reason = "what counts is that it is open")] OwnedFd),
    Process(u32),
}

pub(super) struct Peer {
    pub(super) owner: OwnerProxy<'static>,
    anchor: Anchor,
}

impl Peer {
    /// Opens one, while nothing happens to the service.
    pub(super) async fn open(scenario: &Scenario, name: &str, by: By) -> Self {
        let (path, anchor) = if by == By::Lifeline {
            let opened = scenario.manager.open_owner("", name, HashMap::new()).await;
            let (path, lifeline) = opened.unwrap();
            (path, Anchor::Lifeline(lifeline.into()))
        } else {
            let process = scenario.process_pool.begin().await;
            let path = scenario.manager.register_owner("", name, process, HashMap::new()).await;
            (path.unwrap(), Anchor::Process(process))
        };
        // A proxy that remembers properties also remembers that it was given none.
        let owner = OwnerProxy::builder(&scenario.bus).path(path);
        let owner = owner.cache_properties(CacheProperties::No).build().await.unwrap();
        Self { owner, anchor }
    }

    pub(super) fn path(&self) -> OwnedObjectPath {
        self.owner.inner().path().to_owned().into()
    }

    /// Its process is killed, or its lifeline dropped.
    pub(super) async fn die(self, scenario: &Scenario) {
        if let Anchor::Process(process) = self.anchor {
            scenario.process_pool.end(process).await;
        }
    }

    pub(super) async fn state(&self) -> String {
        call_until_answered("State", || self.owner.state()).await
    }

    /// Returns its suspended locks.
    pub(super) async fn remembers(&self) -> Vec<(String, String)> {
        call_until_answered("Suspended", || self.owner.suspended()).await
    }

    /// A token for all that it holds.
    pub(super) async fn offer(&self) -> String {
        self.owner.offer(none()).await.unwrap()
    }
}

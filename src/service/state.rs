//! What is behind the mutex.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::limits::{Exempt, Usage, within};
use super::{Batch, Error, Settings, Shown};
use crate::lock::held::Held;
use crate::lock::owner::AnchorId;
use crate::lock::{Event, OwnerId, Table};

/// The table, and beside it what the table may not know: descriptors and tasks.
#[derive(Debug)]
pub(super) struct State {
    pub(super) table: Table,
    /// The bytes of every lock that is held.
    pub(super) held: HashMap<u64, Arc<Held>>,
    pub(super) kept: HashMap<OwnerId, Kept>,
    pub(super) settings: Settings,
    pub(super) closing: bool,
    last_anchor: AnchorId,
    reader: Option<mpsc::UnboundedSender<Batch>>,
}

/// What belongs to an owner and is no matter of the table.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Held for the length of each of its commands.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// The tasks that wait for the end of its anchors; ending one closes its descriptor.
    pub(super) watches: HashMap<AnchorId, AbortHandle>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.watches.values().for_each(AbortHandle::abort);
    }
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            table: Table::default(),
            held: HashMap::new(),
            kept: HashMap::new(),
            settings,
            closing: false,
            last_anchor: 0,
            reader: None,
        }
    }

    pub(super) fn subscribe(&mut self) -> mpsc::UnboundedReceiver<Batch> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.reader = Some(sender);
        receiver
    }

    /// Hands events to the reader, in the order of the decisions since this happens under the
    /// mutex. Never waits: what piles up is bounded by the commands that wait for it.
    pub(super) fn publish(&mut self, events: Vec<Event>) -> Shown {
        let Some(reader) = self.reader.as_ref().filter(|_| !events.is_empty()) else {
            return Shown(None);
        };
        let (shown, seen) = oneshot::channel();
        if reader.send(Batch { events, shown }).is_err() {
            self.reader = None;
            return Shown(None);
        }
        Shown(Some(seen))
    }

    pub(super) fn next_anchor(&mut self) -> AnchorId {
        self.last_anchor += 1;
        self.last_anchor
    }

    /// Refuses what would be more than this user may have; `more` says what is asked for.
    pub(super) fn check_quota(
        &self,
        exempt: Exempt,
        uid: u32,
        more: impl FnOnce(&mut Usage),
    ) -> Result<(), Error> {
        if exempt.covers(uid) {
            return Ok(());
        }
        let mut usage = Usage::of(self.table.owners_of(uid));
        more(&mut usage);
        usage.check(&self.settings.limits, uid)
    }

    /// Refuses more locks than the service can hold at all.
    pub(super) fn check_total(&self, more: usize) -> Result<(), Error> {
        let limit = self.settings.limits.locks_total;
        within("locks", self.table.size() + more, limit, || "in all".to_owned())
    }

    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.closing { Err(Error::ShuttingDown) } else { Ok(()) }
    }
}

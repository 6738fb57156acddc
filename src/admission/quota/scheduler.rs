//! Decides which calls are admitted, and which call is dispatched next.
//!
//! The scheduler counts the calls of each connection and of each user, from the admission of a call
//! until its reply. Calls that are not dispatched yet wait in one queue for each user. The calls of
//! the privileged user are dispatched first; the other users take turns (round robin), which
//! prevents starvation. The time is passed in.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::call::{AdmittedCall, RefusedCall};
use super::refusal::{IdentificationError, RefusalReason};
use super::token_bucket::{Rate, TokenBucket};
use super::usage::{ConnectionUsage, DispatchedCall, UserUsage};
use crate::admission::message::header::Header;
use crate::admission::message::raw::RawMessage;
use crate::service::core::limits::within;
use crate::service::{Error, Limits};

/// The maximum number of bytes in flight of one user.
const BYTES_PER_USER: usize = 2 << 20;
/// The maximum number of bytes in flight of all ordinary users together, and again of all
/// connections whose user is not known yet.
const BYTES_TOTAL: usize = 16 << 20;
/// The maximum number of bytes in flight of the privileged user.
const BYTES_PRIVILEGED: usize = 32 << 20;
/// The maximum number of calls in flight of the privileged user, in addition to those that may wait
/// for locks.
const PRIVILEGED: usize = 4096;
/// The maximum number of calls of a connection that are kept until its user is known.
const UNIDENTIFIED: usize = 256;
/// The maximum number of bytes of these calls. The first call is exempt.
const BYTES_UNIDENTIFIED: usize = 64 << 10;

/// Whether the bus must be asked for the user of a connection whose call was admitted.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::admission) enum UserLookup {
    /// The user is known, or the bus is being asked already.
    NotNeeded,
    /// The call is kept until the user is known, and the bus must be asked.
    Needed,
}

/// The calls in flight, and the queues of calls that are not dispatched yet.
#[derive(Debug)]
pub(in crate::admission) struct CallScheduler {
    /// The user to which no quota applies.
    privileged: u32,
    connections: HashMap<Arc<str>, ConnectionUsage>,
    users: HashMap<u32, UserUsage>,
    /// The ordinary users that have queued calls, in the order of their turns.
    round_robin: VecDeque<u32>,
    in_flight: usize,
    /// Bytes in flight of all ordinary users, and of unidentified connections.
    size: usize,
    unidentified: usize,
    /// Calls with a bulk reply of all ordinary users that are being answered.
    bulk: usize,
    dispatched: u64,
}

impl CallScheduler {
    /// Creates a scheduler with no call in flight. No quota applies to the user `privileged`.
    pub(in crate::admission) fn new(privileged: u32) -> Self {
        Self {
            privileged,
            connections: HashMap::new(),
            users: HashMap::new(),
            round_robin: VecDeque::new(),
            in_flight: 0,
            size: 0,
            unidentified: 0,
            bulk: 0,
            dispatched: 0,
        }
    }

    /// Returns whether every admitted call has been answered.
    pub(in crate::admission) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Returns whether a call waits to be dispatched.
    pub(in crate::admission) fn has_queued_calls(&self) -> bool {
        !self.round_robin.is_empty()
            || self.users.get(&self.privileged).is_some_and(UserUsage::has_queued_calls)
    }

    /// Returns the user of a connection; `None` if it is not known.
    pub(in crate::admission) fn uid_of(&self, sender: &str) -> Option<u32> {
        self.connections.get(sender).and_then(|connection| connection.uid)
    }

    /// Admits a call of `size` bytes if no quota is exceeded. `raw` is called only if the call is
    /// admitted.
    ///
    /// # Errors
    ///
    /// [`RefusedCall`] for [`Error::Limit`].
    pub(in crate::admission) fn admit(
        &mut self,
        sender: &str,
        header: &Header<'_>,
        size: usize,
        raw: impl FnOnce() -> RawMessage,
        limits: &Limits,
        now: Instant,
    ) -> Result<UserLookup, RefusedCall> {
        let name = self.connection_name(sender, limits, now);
        let uid = self.connections.get(&name).and_then(|connection| connection.uid);
        let refused = |reason: Error| {
            let Header { serial, no_reply, .. } = *header;
            RefusedCall { sender: Arc::clone(&name), uid, serial, no_reply, reason: reason.into() }
        };
        let Some(uid) = uid else {
            let identify = self.reserve_unidentified(&name, size).map_err(refused)?;
            let admitted = AdmittedCall::new(&name, header, raw());
            if let Some(connection) = self.connections.get_mut(&name) {
                connection.unidentified.push(admitted);
            }
            return Ok(if identify { UserLookup::Needed } else { UserLookup::NotNeeded });
        };
        self.reserve(&name, uid, size, limits, now).map_err(refused)?;
        self.queue(uid, AdmittedCall::new(&name, header, raw()));
        Ok(UserLookup::NotNeeded)
    }

    /// Returns the names of all connections that have not left the bus.
    pub(in crate::admission) fn connections(&self) -> Vec<Arc<str>> {
        let present = self.connections.iter().filter(|(_, connection)| !connection.has_left);
        present.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Sets the user of a connection, and admits or refuses the calls that the connection has sent.
    /// If the user cannot be identified, all of them are refused, and the connection is removed.
    pub(in crate::admission) fn set_user(
        &mut self,
        sender: &str,
        uid: Result<u32, IdentificationError>,
        limits: &Limits,
        now: Instant,
    ) -> Vec<RefusedCall> {
        let Some(connection) = self.connections.get_mut(sender) else { return Vec::new() };
        connection.uid = uid.ok();
        let calls = std::mem::take(&mut connection.unidentified);
        connection.in_flight -= calls.len();
        let size = std::mem::take(&mut connection.size);
        self.in_flight -= calls.len();
        self.unidentified -= size;
        let mut refused = Vec::new();
        for mut call in calls {
            for descriptor in &mut call.raw.descriptors {
                descriptor.set_sender(uid.ok());
            }
            let reserved = match uid {
                Ok(uid) => {
                    let size = call.raw.bytes.len();
                    let reserved = self.reserve(&call.sender, uid, size, limits, now);
                    reserved.map(|()| uid).map_err(RefusalReason::from)
                }
                Err(reason) => Err(reason.into()),
            };
            match reserved {
                Ok(uid) => self.queue(uid, call),
                Err(reason) => {
                    let AdmittedCall { sender, serial, no_reply, .. } = call;
                    refused.push(RefusedCall { sender, uid: uid.ok(), serial, no_reply, reason });
                }
            }
        }
        if uid.is_err() {
            self.connections.remove(sender);
        }
        self.remove_if_done(sender);
        refused
    }

    /// Removes a connection that has left the bus, after its last call is answered.
    pub(in crate::admission) fn remove_connection(&mut self, sender: &str) {
        if let Some(connection) = self.connections.get_mut(sender) {
            connection.has_left = true;
            self.remove_if_done(sender);
        }
    }

    /// Removes and returns the next call to dispatch. Unless `ordinary`, only a call of the
    /// privileged user.
    pub(in crate::admission) fn next_call(&mut self, ordinary: bool) -> Option<AdmittedCall> {
        if let Some(call) = self.users.get_mut(&self.privileged).and_then(|user| user.next_call(0))
        {
            return Some(self.dispatch(call));
        }
        let round_robin = if ordinary { self.round_robin.len() } else { 0 };
        for _ in 0..round_robin {
            let uid = self.round_robin.pop_front()?;
            let user = self.users.get_mut(&uid)?;
            let next = user.next_call(self.bulk);
            if user.has_queued_calls() {
                self.round_robin.push_back(uid);
            }
            if let Some(call) = next {
                self.bulk += usize::from(call.bulk);
                return Some(self.dispatch(call));
            }
        }
        None
    }

    /// Marks a call as answered. Returns whether the caller wants the reply.
    pub(in crate::admission) fn complete(&mut self, sender: &str, serial: u32) -> bool {
        let Some(connection) = self.connections.get_mut(sender) else { return true };
        let first = connection.dispatched.range((serial, 0)..=(serial, u64::MAX)).next();
        let Some(key) = first.map(|(key, _)| *key) else { return true };
        let Some(call) = connection.dispatched.remove(&key) else { return true };
        connection.in_flight -= 1;
        self.in_flight -= 1;
        let uid = connection.uid.unwrap_or(self.privileged);
        if let Some(user) = self.users.get_mut(&uid) {
            user.in_flight -= 1;
            user.size -= call.size;
            user.bulk -= usize::from(call.bulk);
        }
        if uid != self.privileged {
            self.size -= call.size;
            self.bulk -= usize::from(call.bulk);
        }
        self.remove_if_done(sender);
        !call.no_reply
    }

    fn connection_name(&mut self, sender: &str, limits: &Limits, now: Instant) -> Arc<str> {
        if let Some((name, _)) = self.connections.get_key_value(sender) {
            return Arc::clone(name);
        }
        let name: Arc<str> = sender.into();
        let connection = ConnectionUsage {
            uid: None,
            lookup_requested: false,
            bucket: TokenBucket::full(
                Rate::per_second(limits.calls_per_second_per_connection),
                now,
            ),
            in_flight: 0,
            dispatched: BTreeMap::new(),
            unidentified: Vec::new(),
            size: 0,
            has_left: false,
        };
        self.connections.insert(Arc::clone(&name), connection);
        name
    }

    /// Counts a call of a connection whose user is not known. Returns whether the bus must be asked
    /// for the user.
    fn reserve_unidentified(&mut self, sender: &str, size: usize) -> Result<bool, Error> {
        let Some(connection) = self.connections.get_mut(sender) else { return Ok(false) };
        let whose = || format!("for {sender}, whose user is not known yet");
        let first = connection.unidentified.is_empty();
        within("calls at one time", connection.in_flight + 1, UNIDENTIFIED, whose)?;
        if !first {
            let sum = connection.size + size;
            within("bytes of calls at one time", sum, BYTES_UNIDENTIFIED, whose)?;
        }
        within("bytes of calls at one time", self.unidentified + size, BYTES_TOTAL, whose)?;
        connection.in_flight += 1;
        connection.size += size;
        self.in_flight += 1;
        self.unidentified += size;
        Ok(!std::mem::replace(&mut connection.lookup_requested, true))
    }

    /// Returns whether the bus must be asked for the user of a connection that has no queued call.
    pub(in crate::admission) fn needs_user_lookup(
        &mut self,
        sender: &str,
        limits: &Limits,
        now: Instant,
    ) -> bool {
        let name = self.connection_name(sender, limits, now);
        let connection = self.connections.get_mut(&name);
        connection
            .is_some_and(|connection| !std::mem::replace(&mut connection.lookup_requested, true))
    }

    /// Counts a call, unless a quota of its connection or its user is exceeded.
    fn reserve(
        &mut self,
        sender: &str,
        uid: u32,
        size: usize,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Error> {
        if !self.users.contains_key(&uid) {
            let rate = Rate::per_second(limits.calls_per_second);
            self.users.retain(|_, user| user.in_flight > 0 || !user.bucket.is_full(rate, now));
        }
        let Some(connection) = self.connections.get_mut(sender) else { return Ok(()) };
        let user = self.users.entry(uid).or_insert_with(|| UserUsage::new(limits, now));
        let whose = || format!("for uid {uid}");
        let bytes = "bytes of calls at one time";
        if uid == self.privileged {
            let most = limits.waiters_total.saturating_add(PRIVILEGED);
            within("calls at one time", user.in_flight + 1, most, whose)?;
            within(bytes, user.size + size, BYTES_PRIVILEGED, whose)?;
        } else {
            let of_connection = || format!("for one connection of uid {uid}");
            let (calls, most) = (connection.in_flight + 1, limits.calls_per_connection);
            within("calls at one time", user.in_flight + 1, limits.calls_per_user, whose)?;
            within("calls at one time", calls, most, of_connection)?;
            within(bytes, user.size + size, BYTES_PER_USER, whose)?;
            within(bytes, self.size + size, BYTES_TOTAL, || "for all users".to_owned())?;
            let limit = limits.calls_per_second;
            if !user.bucket.try_take(Rate::per_second(limit), now) {
                let whose = format!("in a second for uid {uid}");
                return Err(Error::Limit { what: "calls", limit, whose });
            }
            let limit = limits.calls_per_second_per_connection;
            if !connection.bucket.try_take(Rate::per_second(limit), now) {
                let whose = format!("in a second for one connection of uid {uid}");
                return Err(Error::Limit { what: "calls", limit, whose });
            }
            self.size += size;
        }
        connection.in_flight += 1;
        user.in_flight += 1;
        user.size += size;
        self.in_flight += 1;
        Ok(())
    }

    fn queue(&mut self, uid: u32, call: AdmittedCall) {
        let Some(user) = self.users.get_mut(&uid) else { return };
        if uid != self.privileged && !user.has_queued_calls() {
            self.round_robin.push_back(uid);
        }
        let queue = if call.bulk { &mut user.bulk_calls } else { &mut user.calls };
        queue.push_back(call);
    }

    fn dispatch(&mut self, call: AdmittedCall) -> AdmittedCall {
        self.dispatched += 1;
        let AdmittedCall { no_reply, bulk, .. } = call;
        let dispatched = DispatchedCall { no_reply, bulk, size: call.raw.bytes.len() };
        if let Some(connection) = self.connections.get_mut(&call.sender) {
            connection.dispatched.insert((call.serial, self.dispatched), dispatched);
        }
        call
    }

    fn remove_if_done(&mut self, sender: &str) {
        let done = |connection: &ConnectionUsage| connection.has_left && connection.in_flight == 0;
        if self.connections.get(sender).is_some_and(done) {
            self.connections.remove(sender);
        }
    }
}

#[cfg(test)]
mod tests;

//! A method call that was admitted or refused, and the quota on the descriptors of calls.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::refusal::RefusalReason;
use crate::admission::message::error_reply::write_error;
use crate::admission::message::header::Header;
use crate::admission::message::raw::RawMessage;
use crate::lock::descriptor::closer::{self, Excess};
use crate::lock::descriptor::received::Received;
use crate::service;
use crate::sync::lock;

/// Methods whose replies grow with the number of locks or owners. Only a few of them are answered
/// at the same time, since each may hold megabytes until the reply is sent.
const BULK_METHODS: &[&str] =
    &["Get", "GetAll", "GetManagedObjects", "Introspect", "ListLocks", "ListOwners", "ListWaiting"];

/// The minimum interval between two warnings about descriptors that are not closed.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// A call that was admitted.
#[derive(Debug)]
pub(in crate::admission) struct AdmittedCall {
    /// The message.
    pub(in crate::admission) raw: RawMessage,
    /// The caller's connection.
    pub(in crate::admission) sender: Arc<str>,
    /// The call's serial number.
    pub(in crate::admission) serial: u32,
    /// Whether the caller wants no reply.
    pub(in crate::admission) no_reply: bool,
    /// Whether the reply grows with the number of locks or owners.
    pub(in crate::admission) bulk: bool,
}

impl AdmittedCall {
    /// Creates the call that `header` describes.
    pub(in crate::admission) fn new(
        sender: &Arc<str>,
        header: &Header<'_>,
        raw: RawMessage,
    ) -> Self {
        Self {
            raw,
            sender: Arc::clone(sender),
            serial: header.serial,
            no_reply: header.no_reply,
            bulk: header.member.is_some_and(|member| BULK_METHODS.contains(&member)),
        }
    }

    /// Returns the user that sent the descriptors; `None` if the user is not known, or there are
    /// none.
    pub(in crate::admission) fn sender_uid(&self) -> Option<u32> {
        self.raw.descriptors.first().and_then(Received::sender)
    }

    /// Checks that the user of the call may pass its descriptors.
    ///
    /// # Errors
    ///
    /// [`service::Error::Limit`] while too many descriptors that this user has passed are not
    /// closed yet.
    pub(in crate::admission) fn check_descriptors(&self) -> Result<(), RefusalReason> {
        check_descriptors(self.sender_uid(), self.raw.descriptors.len())
    }
}

/// Checks that a user may pass `count` descriptors.
///
/// # Errors
///
/// [`service::Error::Limit`] while too many descriptors that this user has passed are not closed
/// yet.
pub(in crate::admission) fn check_descriptors(
    uid: Option<u32>,
    count: usize,
) -> Result<(), RefusalReason> {
    closer::check(uid, count).map_err(|Excess { limit, in_all }| {
        log_limit(uid);
        let whose = match uid {
            Some(uid) if !in_all => format!("for uid {uid}"),
            None if !in_all => "for connections whose user is not known yet".to_owned(),
            _ => "for all users".to_owned(),
        };
        service::Error::Limit { what: "descriptors that are not closed yet", limit, whose }.into()
    })
}

/// Logs that descriptors of a user are not closed, at most once in [`WARNING_INTERVAL`] for all
/// users together.
fn log_limit(uid: Option<u32>) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let (mut last, now) = (lock(&LAST), Instant::now());
    if last.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL) {
        *last = Some(now);
        let user = uid.map_or_else(|| "unknown users".to_owned(), |uid| format!("uid {uid}"));
        tracing::warn!(
            "refusing calls with descriptors from {user}: too many descriptors are not closed yet, \
             because their file systems or sockets are not responding"
        );
    }
}

/// A call that was refused.
#[derive(Debug)]
pub(in crate::admission) struct RefusedCall {
    /// The caller's connection.
    pub(in crate::admission) sender: Arc<str>,
    /// The caller's user; `None` if it is not known.
    pub(in crate::admission) uid: Option<u32>,
    /// The call's serial number.
    pub(in crate::admission) serial: u32,
    /// Whether the caller wants no reply.
    pub(in crate::admission) no_reply: bool,
    /// The reason for the refusal.
    pub(in crate::admission) reason: RefusalReason,
}

impl RefusedCall {
    /// Returns the error message that answers the call.
    pub(in crate::admission) fn to_error_reply(&self) -> Vec<u8> {
        let (mut bytes, reason) = (Vec::new(), &self.reason);
        write_error(&mut bytes, &self.sender, self.serial, reason.name(), &reason.to_string());
        bytes
    }
}

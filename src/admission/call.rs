//! A method call on its way to the object server.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::head::Head;
use super::lock;
use super::refusal::Error;
use crate::lock::closer::{self, Excess};
use crate::lock::received::Received;
use crate::service;

/// Methods whose replies grow with the number of locks or owners. Only so many of them are
/// answered at one time, since each may hold megabytes until the reply is sent.
const LISTINGS: &[&str] =
    &["Get", "GetAll", "GetManagedObjects", "Introspect", "ListLocks", "ListOwners", "ListWaiting"];

/// How often it is logged that descriptors are not closed.
const WARNING: Duration = Duration::from_secs(60);

/// A message as it was received.
#[derive(Debug)]
pub(super) struct Raw {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// The descriptors that accompany it.
    pub(super) descriptors: Vec<Received>,
}

/// A call that was admitted.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The message.
    pub(super) raw: Raw,
    /// The caller's connection.
    pub(super) sender: Arc<str>,
    /// The call's serial number.
    pub(super) serial: u32,
    /// Whether the caller wants no reply.
    pub(super) no_reply: bool,
    /// Whether its reply grows with what is held.
    pub(super) listing: bool,
}

impl Admitted {
    /// The call that `head` describes.
    pub(super) fn new(sender: &Arc<str>, head: &Head<'_>, raw: Raw) -> Self {
        Self {
            raw,
            sender: Arc::clone(sender),
            serial: head.serial,
            no_reply: head.no_reply,
            listing: head.member.is_some_and(|member| LISTINGS.contains(&member)),
        }
    }

    /// Returns the user that sent its descriptors; `None` where that is not known, or there are none.
    pub(super) fn uid(&self) -> Option<u32> {
        self.raw.descriptors.first().and_then(Received::sender)
    }

    /// Checks that its user may pass these descriptors.
    ///
    /// # Errors
    ///
    /// [`service::Error::Limit`] while too many that this user has passed are not closed yet.
    pub(super) fn check_descriptors(&self) -> Result<(), Error> {
        check_descriptors(self.uid(), self.raw.descriptors.len())
    }
}

/// Checks that a user may pass so many descriptors.
///
/// # Errors
///
/// [`service::Error::Limit`] while too many that this user has passed are not closed yet.
pub(super) fn check_descriptors(uid: Option<u32>, count: usize) -> Result<(), Error> {
    closer::check(uid, count).map_err(|Excess { limit, in_all }| {
        warn(uid);
        let whose = match uid {
            Some(uid) if !in_all => format!("for uid {uid}"),
            None if !in_all => "for connections whose user is not known yet".to_owned(),
            _ => "for all users".to_owned(),
        };
        service::Error::Limit { what: "descriptors that are not closed yet", limit, whose }.into()
    })
}

/// Logs that descriptors of a user are not closed, once in a while for all users together.
fn warn(uid: Option<u32>) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let (mut last, now) = (lock(&LAST), Instant::now());
    if last.is_none_or(|last| now.duration_since(last) >= WARNING) {
        *last = Some(now);
        let user = uid.map_or_else(|| "unknown users".to_owned(), |uid| format!("uid {uid}"));
        tracing::warn!(
            "refusing calls with descriptors from {user}: too many descriptors are not closed yet, \
             because their file systems or sockets are not responding"
        );
    }
}

/// A call that was not admitted.
#[derive(Debug)]
pub(super) struct Refused {
    /// The caller's connection.
    pub(super) sender: Arc<str>,
    /// The caller's user, where it is known.
    pub(super) uid: Option<u32>,
    /// The call's serial number.
    pub(super) serial: u32,
    /// Whether the caller wants no reply.
    pub(super) no_reply: bool,
    /// The limit.
    pub(super) why: Error,
}

//! Redaction of errors for callers that may not see everything that the error names.
//!
//! An allow-list: every caller receives the full text of an error only if the error is listed here
//! as one that names nothing but arguments of the call, the caller's own owners, or the host. For
//! callers that do not see everything, an error that is not listed is replaced by a text without
//! details, so that a new error cannot disclose anything by accident.

use crate::lock::model::lease_name::spoken;
use crate::lock::model::refusal::{Ahead, ForeignHolder, Naming, Refusal};
use crate::lock::text::escape::shown;
use crate::lock::{self, Mode};
use crate::{life, service};

/// The text of an error of which nothing may be disclosed.
const WITHHELD: &str = "refused because of another user, whose locks are hidden from the caller";

/// The redacted text of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redaction {
    /// The text.
    pub(super) text: String,
    /// The users whose owners the full text names; empty if only a caller that sees everything may
    /// read the full text.
    pub(super) users: Vec<u32>,
}

impl Redaction {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), users: Vec::new() }
    }
}

/// Redacts an error of the service; `None` if every caller may read the error.
pub(super) fn redact_service(error: &service::Error) -> Option<Redaction> {
    use service::Error as E;
    match error {
        E::Lock(error) => redact_lock(error),
        E::Life(error) => redact_life(error),
        E::Held { refusal, .. } => Some(redact_refusal(refusal)),
        E::HeldElsewhere { foreign, .. } => Some(redact_foreign(foreign)),
        E::TimedOut { waited, last } => {
            let last = redact_service(last.as_deref()?)?;
            let waited = E::TimedOut { waited: *waited, last: None };
            Some(Redaction { text: format!("{waited}: {}", last.text), ..last })
        }
        E::Cancelled(_)
        | E::CallerGone
        | E::Limit { .. }
        | E::MoreLocks
        | E::ShuttingDown
        | E::UnresponsiveMount(_)
        // About paths and process numbers of the caller.
        | E::ForeignName(_)
        | E::ForeignPid { .. }
        | E::Inspector(_)
        | E::Abandoned => None,
        _ => Some(Redaction::new(WITHHELD)),
    }
}

/// Redacts an error about a lock; `None` if every caller may read the error.
pub(super) fn redact_lock(error: &lock::Error) -> Option<Redaction> {
    use lock::Error as E;
    match error {
        E::Held(refusal) => Some(redact_refusal(refusal)),
        E::HeldElsewhere(foreign) => Some(redact_foreign(foreign)),
        E::LockspaceInUse { directory, .. } => {
            Some(Redaction::new(format!("lockspace {directory} is in use by another user")))
        }
        E::NotUndone { cause, undo } => match (redact_lock(cause), redact_lock(undo)) {
            (None, None) => None,
            (cause, _) => cause.or_else(|| Some(Redaction::new(WITHHELD))),
        },
        E::Input(_)
        | E::TwoModes(_)
        | E::OtherMode { .. }
        | E::OnlyRecorded { .. }
        | E::LeaseRequired(_)
        | E::Missing(_)
        | E::NotLockable { .. }
        | E::Changed(_)
        | E::System { .. }
        | E::Lockspace { .. }
        | E::NoSuchLockspace(_)
        | E::Configured(_)
        | E::OwnerExists(_)
        | E::NoSuchOwner(_)
        | E::Suspended(_)
        | E::OfferedAlready(_)
        | E::NothingToOffer(_)
        | E::OwnOffer(_)
        | E::HeldTwice { .. }
        | E::NoSuchOffer
        | E::NoSuchLock(_) => None,
        #[allow(unreachable_patterns)] // For an error that is added and not listed here.
        _ => Some(Redaction::new(WITHHELD)),
    }
}

/// Redacts an error about a process that the caller has named; `None` if every caller may read the
/// error.
pub(super) fn redact_life(error: &life::Error) -> Option<Redaction> {
    use life::Error as E;
    match error {
        E::NoSuchProcess(_)
        | E::Ended
        | E::NotAProcess
        | E::IsThread
        | E::Hidden
        | E::System { .. } => None,
        #[allow(unreachable_patterns)]
        _ => Some(Redaction::new(WITHHELD)),
    }
}

/// Redacts a refusal: the resource and the mode remain, and every holder becomes "another user".
fn redact_refusal(refusal: &Refusal) -> Redaction {
    // No `..`: for a field that is added, this function must decide which users it names.
    let Refusal { resource, holders, ahead, users } = refusal;
    let modes = || holders.iter().map(|holder| holder.mode);
    let resource = spoken(&shown(resource));
    let is_reserved = holders.iter().all(|holder| holder.reserved_until.is_some());
    let text = match strongest_mode(modes()) {
        Some(_) if is_reserved => format!("{resource} is reserved for another user"),
        Some(mode) => format!("{resource} is locked {} by another user", mode.adverb()),
        None => format!("{resource} is waited for by another user, which has priority"),
    };
    let mut named: Vec<u32> = holders.iter().map(|holder| holder.owner.uid).collect();
    if let Some(Ahead { owner, .. }) = ahead {
        named.push(owner.uid);
    }
    named.extend(users.named.iter().map(|process| process.uid));
    if users.more > 0 {
        named.clear();
    }
    Redaction { text, users: named }
}

/// Redacts a refusal because of a foreign holder.
fn redact_foreign(holder: &ForeignHolder) -> Redaction {
    let ForeignHolder { resource, lock_file: _, mode, by: _, processes, recorded, users, naming } =
        holder;
    let resource = spoken(&shown(resource));
    let text = format!("{resource} is locked {} by another program or host", mode.adverb());
    // Everything that the text names is known, and belongs to users of this host.
    let is_complete = *naming == Naming::Done
        && recorded.is_empty()
        && processes.more == 0
        && users.more == 0
        && !processes.named.is_empty();
    let named = processes.named.iter().chain(&users.named).map(|process| process.uid);
    Redaction { text, users: if is_complete { named.collect() } else { Vec::new() } }
}

/// Returns the most restrictive of these modes.
pub(in crate::dbus) fn strongest_mode(modes: impl Iterator<Item = Mode>) -> Option<Mode> {
    let rank = |mode: &Mode| match mode {
        Mode::Exclusive => 2,
        Mode::Shared => 1,
        Mode::None => 0,
    };
    modes.max_by_key(rank)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::lock::OwnerId;
    use crate::lock::model::process::Process;
    use crate::lock::model::process_search::ForeignLock;
    use crate::lock::model::process_search::Processes;
    use crate::lock::model::refusal::{Holder, Relation};

    fn holder(uid: u32, mode: Mode) -> Holder {
        Holder {
            lock: 1,
            owner: OwnerId::new(uid, Uuid::from_u128(5)),
            name: "secret".to_owned(),
            why: "secret".to_owned(),
            pid: 4711,
            mode,
            since: 0,
            resource: "/secret/disk".to_owned(),
            relation: Relation::Same,
            kept_by: Processes::default(),
            reserved_until: None,
        }
    }

    fn processes(uids: &[u32]) -> Processes {
        let process = |uid: &u32| Process {
            pid: 4711,
            program: "secret".to_owned(),
            uid: *uid,
            machine: None,
            mode: None,
        };
        Processes { named: uids.iter().map(process).collect(), more: 0 }
    }

    fn refusal(holders: Vec<Holder>) -> Refusal {
        let users = Processes::default();
        Refusal { resource: "/srv/a".to_owned(), holders, ahead: None, users }
    }

    fn foreign_holder() -> ForeignHolder {
        ForeignHolder {
            resource: "/srv/a".to_owned(),
            lock_file: Some("/secret/lock".to_owned()),
            mode: Mode::Shared,
            by: ForeignLock::Byte,
            processes: processes(&[7]),
            recorded: Vec::new(),
            users: Processes::default(),
            naming: Naming::Done,
        }
    }

    #[test]
    fn a_holder_becomes_another_user() {
        let refusal = refusal(vec![holder(7, Mode::Shared), holder(8, Mode::Shared)]);
        let held = lock::Error::Held(Box::new(refusal.clone()));
        let redaction = redact_lock(&held).unwrap();
        assert_eq!(redaction.text, "disk /srv/a is locked in shared mode by another user");
        assert_eq!(redaction.users, [7, 8]);
        let held = service::Error::Held { message: "secret".into(), refusal: Box::new(refusal) };
        let late =
            service::Error::TimedOut { waited: Duration::from_secs(1), last: Some(Box::new(held)) };
        let text = redact_service(&late).unwrap().text;
        assert!(text.ends_with(": disk /srv/a is locked in shared mode by another user"), "{text}");
    }

    #[test]
    fn a_vm_for_which_a_disk_is_reserved_is_not_named() {
        let holder = Holder { reserved_until: Some(1), ..holder(7, Mode::Exclusive) };
        let redaction = redact_refusal(&refusal(vec![holder]));
        assert_eq!(redaction.text, "disk /srv/a is reserved for another user");
        assert_eq!(redaction.users, [7]);
    }

    #[test]
    fn a_waiter_with_priority_becomes_another_user() {
        let owner = OwnerId::new(9, Uuid::from_u128(5));
        let ahead = Some(Ahead { owner, name: "secret".to_owned(), since: 1 });
        let redaction = redact_refusal(&Refusal { ahead, ..refusal(Vec::new()) });
        assert!(!redaction.text.contains("secret"), "{redaction:?}");
        assert_eq!(redaction.users, [9]);
    }

    #[test]
    fn a_foreign_holder_is_named_only_to_its_own_user() {
        assert_eq!(redact_foreign(&foreign_holder()).users, [7]);
        let text = redact_foreign(&foreign_holder()).text;
        assert_eq!(text, "disk /srv/a is locked in shared mode by another program or host");
        let users = processes(&[8]);
        assert_eq!(redact_foreign(&ForeignHolder { users, ..foreign_holder() }).users, [7, 8]);
        let naming = Naming::Late(Some(4711));
        assert!(redact_foreign(&ForeignHolder { naming, ..foreign_holder() }).users.is_empty());
        let processes = Processes { more: 1, ..processes(&[7]) };
        assert!(redact_foreign(&ForeignHolder { processes, ..foreign_holder() }).users.is_empty());
    }

    #[test]
    fn an_error_that_is_not_listed_is_withheld() {
        let (name, uid) = ("secret".to_owned(), 7);
        let text =
            redact_service(&service::Error::NeedsForce { lock: 1, name, uid, how: "is alive" })
                .unwrap()
                .text;
        assert_eq!(text, WITHHELD);
        let in_use = lock::Error::LockspaceInUse {
            directory: "/srv/l".to_owned(),
            name: "secret".to_owned(),
            how: "holds a lease in it",
        };
        assert!(!redact_lock(&in_use).unwrap().text.contains("secret"));
        let (cause, undo) = (Box::new(in_use), Box::new(lock::Error::NoSuchOffer));
        let cause_first = lock::Error::NotUndone { cause, undo };
        assert!(!redact_lock(&cause_first).unwrap().text.contains("secret"));
        assert!(redact_lock(&lock::Error::NoSuchOffer).is_none());
    }
}

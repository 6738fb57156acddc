//! Owners: VMs that may hold locks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::input_error::InputError;
use crate::lock::model::lock::Want;
use crate::lock::model::loss_action::OnLost;
use crate::lock::text::escape::{is_printable, shown};

/// The key of an owner: one user's VM.
///
/// Owners of one user never block, join or command those of another, so the user is part of the
/// key: two users may both open the same UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId {
    /// The user that opened it.
    pub uid: u32,
    /// The UUID of the VM.
    pub uuid: Uuid,
    /// 0; or the number of a process, for a second process that claims to be this VM while the
    /// first is alive. Two processes must not share the locks of one of them.
    pub process: u32,
}

impl OwnerId {
    /// Returns the key of a user's VM.
    #[must_use]
    pub const fn new(uid: u32, uuid: Uuid) -> Self {
        Self { uid, uuid, process: 0 }
    }

    /// Whether both are owners of one VM, perhaps of two of its processes.
    #[must_use]
    pub fn is_same_vm(self, other: Self) -> bool {
        self.uid == other.uid && self.uuid == other.uuid
    }
}

impl fmt::Display for OwnerId {
    /// Formats the UUID; for users other than root, also the user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uuid)?;
        if self.uid != 0 {
            write!(f, " of uid {}", self.uid)?;
        }
        if self.process != 0 {
            write!(f, " as process {}", self.process)?;
        }
        Ok(())
    }
}

/// Parses a UUID as libvirt and the tools print it; creates one for the empty text.
///
/// # Errors
///
/// [`InputError::BadUuid`], also for the braced and URN forms: each VM has one spelling.
pub fn parse_uuid(text: &str) -> Result<Uuid, InputError> {
    if text.is_empty() {
        return Ok(Uuid::new_v4());
    }
    let wrong = || InputError::BadUuid(shown(&text.chars().take(64).collect::<String>()));
    let uuid = Uuid::try_parse(text).map_err(|_| wrong())?;
    // 32 digits, or 36 characters with dashes; `{…}` and `urn:uuid:…` are longer.
    if uuid.is_nil() || !matches!(text.len(), 32 | 36) { Err(wrong()) } else { Ok(uuid) }
}

/// The maximum length of a VM's name, in bytes.
pub const NAME_MAX: usize = 128;

/// Returns the printable part of a name, for a VM that must not be refused for its name, such as
/// one that libvirt has started already. The UUID if nothing of it is printable.
#[must_use]
pub fn shown_name(name: &[u8], uuid: Uuid) -> String {
    let mut shown = String::new();
    for c in String::from_utf8_lossy(name).chars() {
        let c = if is_printable(c) { c } else { char::REPLACEMENT_CHARACTER };
        if shown.len() + c.len_utf8() > NAME_MAX {
            break;
        }
        shown.push(c);
    }
    if shown.is_empty() { uuid.to_string() } else { shown }
}

/// Checks a VM's name: not empty, at most [`NAME_MAX`] bytes, and no character that could deceive a
/// reader of a log or a terminal.
///
/// # Errors
///
/// [`InputError::BadName`] with the reason.
pub fn check_name(name: &str) -> Result<(), InputError> {
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > NAME_MAX {
        "is longer than 128 bytes"
    } else if !name.chars().all(is_printable) {
        "has a control, bidirectional or invisible character"
    } else {
        return Ok(());
    };
    Err(InputError::BadName { name: shown(&name.chars().take(NAME_MAX).collect::<String>()), why })
}

/// The frontend through which an owner was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// The D-Bus API.
    Dbus,
    /// virtlockd's protocol: a VM that libvirt started.
    Virtlockd,
}

impl Front {
    /// All frontends.
    pub const ALL: [Self; 2] = [Self::Dbus, Self::Virtlockd];

    /// Returns the word used on D-Bus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dbus => "dbus",
            Self::Virtlockd => "virtlockd",
        }
    }
}

/// A condition that keeps an owner alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// A pipe, until its other end is closed.
    Lifeline,
    /// A living process.
    Process {
        /// Its number, for display; a pidfd watches the process.
        pid: u32,
    },
    /// The connection of the VM's own process to virtlockd's socket, until its last copy is closed.
    Connection,
    /// Nothing: the owner exists until it is closed, as its opener has explicitly requested.
    Manual,
}

impl Anchor {
    /// Returns the word used on D-Bus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lifeline => "lifeline",
            Self::Process { .. } => "process",
            Self::Connection => "connection",
            Self::Manual => "manual",
        }
    }
}

/// The number of an anchor, unique in the life of the service.
pub type AnchorId = u64;

/// An owner, as the table stores it.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Its key.
    pub id: OwnerId,
    /// The name of the VM.
    pub name: String,
    /// The reason for its locks, as given by its opener; empty if there is none.
    pub why: String,
    /// The frontend through which it was opened.
    pub front: Front,
    /// The action on its processes when one of its locks is lost.
    pub on_lost: OnLost,
    /// When it was opened, in microseconds since 1970.
    pub since: u64,
    /// Its anchors, in the order in which they were added.
    pub anchors: BTreeMap<AnchorId, Anchor>,
    /// The locks that it holds, or that are being acquired or released.
    pub locks: BTreeSet<u64>,
    /// The resources that it has released and remembers, by the numbers that the locks had.
    pub suspended: BTreeMap<u64, Arc<Want>>,
    /// The offer of all its locks to another owner.
    pub offer: Option<Offer>,
    /// The owner that has what it remembers, and returns that when it ends.
    pub handed_to: Option<OwnerId>,
    /// The locks that it has from other owners, which remember them.
    pub received_from: BTreeMap<u64, OwnerId>,
    /// Whether it is visible: not while it is being opened, which may wait for its first locks.
    pub opened: bool,
    /// Whether it is ending: it was closed or has lost its last anchor, and is removed with its
    /// last lock.
    pub ended: bool,
}

/// An offer of one owner's locks to another owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The secret that authorizes an adoption.
    pub token: Uuid,
    /// When it expires, in microseconds since boot (`CLOCK_BOOTTIME`, `clock_gettime(2)`).
    pub until: u64,
    /// The number of its record in the journal.
    pub record: AnchorId,
}

impl Owner {
    /// Returns a new owner without anchors or locks.
    #[must_use]
    pub fn new(id: OwnerId, name: String, front: Front, since: u64) -> Self {
        Self {
            id,
            name,
            why: String::new(),
            front,
            on_lost: OnLost::default(),
            since,
            anchors: BTreeMap::new(),
            locks: BTreeSet::new(),
            suspended: BTreeMap::new(),
            offer: None,
            handed_to: None,
            received_from: BTreeMap::new(),
            opened: true,
            ended: false,
        }
    }

    /// Whether it is suspended and remembers resources.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        !self.suspended.is_empty()
    }

    /// Returns the word for its state.
    #[must_use]
    pub fn state(&self) -> &'static str {
        if self.is_suspended() { "suspended" } else { "running" }
    }

    /// Returns the process that it is bound to, the first of several; 0 if there is none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.anchors
            .values()
            .find_map(|anchor| match anchor {
                Anchor::Process { pid } => Some(*pid),
                Anchor::Lifeline | Anchor::Connection | Anchor::Manual => None,
            })
            .unwrap_or(0)
    }

    /// Whether this process is one of its anchors.
    #[must_use]
    pub fn is_bound_to(&self, pid: u32) -> bool {
        self.anchors.values().any(|anchor| *anchor == Anchor::Process { pid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_uuid_has_one_accepted_spelling() {
        assert!(parse_uuid("4dea22b3-1d52-d8f3-2516-782e98ab3fa0").is_ok());
        assert!(parse_uuid("4DEA22B31D52D8F32516782E98AB3FA0").is_ok());
        assert_ne!(parse_uuid("").unwrap(), parse_uuid("").unwrap());
        for wrong in [
            "{4dea22b3-1d52-d8f3-2516-782e98ab3fa0}",
            "urn:uuid:4dea22b3-1d52-d8f3-2516-782e98ab3fa0",
            "00000000-0000-0000-0000-000000000000",
            "web1",
            "4dea22b3-1d52-d8f3-2516-782e98ab3fa",
        ] {
            assert!(matches!(parse_uuid(wrong), Err(InputError::BadUuid(_))), "{wrong}");
        }
    }

    #[test]
    fn shown_name_makes_any_name_printable() {
        let uuid = Uuid::from_u128(7);
        assert_eq!(shown_name(b"web1", uuid), "web1");
        assert_eq!(shown_name(b"", uuid), uuid.to_string());
        for name in [&b"a\nb\xff"[..], "x\u{202e}y".as_bytes(), "é".repeat(200).as_bytes()] {
            check_name(&shown_name(name, uuid)).unwrap();
        }
    }

    #[test]
    fn names_that_could_deceive_are_refused() {
        for name in ["", "a\nb", "\u{1b}[31m", "x\u{202e}y", "a\u{200b}", &"x".repeat(129)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["web1", "VM of Zoë", "テスト"] {
            check_name(name).unwrap();
        }
    }
}

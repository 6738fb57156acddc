//! A virtual machine that may hold locks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::error::Error;
use crate::lock::model::lock::Want;
use crate::lock::model::loss_action::OnLost;
use crate::lock::text::escape::{is_printable, shown};

/// Which owner: one user's machine.
///
/// What one user registers never blocks, joins or commands what another registers, so the user is
/// part of the key: two users may both open one UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId {
    /// Who opened it.
    pub uid: u32,
    /// The machine.
    pub uuid: Uuid,
    /// 0; or the number of a process, for a second one that says it is this machine while the
    /// first lives. Two processes must not share what one of them holds.
    pub process: u32,
}

impl OwnerId {
    /// A user's machine.
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
    /// The UUID; for users other than root with the user.
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

/// Reads a UUID as libvirt and the tools print it; empty means "make one".
///
/// # Errors
///
/// [`Error::BadUuid`], also for the braced and URN spellings: one machine, one spelling.
pub fn parse_uuid(text: &str) -> Result<Uuid, Error> {
    if text.is_empty() {
        return Ok(Uuid::new_v4());
    }
    let wrong = || Error::BadUuid(shown(&text.chars().take(64).collect::<String>()));
    let uuid = Uuid::try_parse(text).map_err(|_| wrong())?;
    // 32 digits, or 36 characters with dashes; `{…}` and `urn:uuid:…` are longer.
    if uuid.is_nil() || !matches!(text.len(), 32 | 36) { Err(wrong()) } else { Ok(uuid) }
}

/// The longest name of a machine, in bytes.
pub const NAME_MAX: usize = 128;

/// What of a name can be shown: where a machine is not to be refused for its name, as one that
/// libvirt started already. The UUID where nothing of it can.
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

/// Checks a machine's name: not empty, at most [`NAME_MAX`] bytes, nothing that could deceive a
/// reader of a log or a terminal.
///
/// # Errors
///
/// [`Error::BadName`] with the reason.
pub fn check_name(name: &str) -> Result<(), Error> {
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > NAME_MAX {
        "is longer than 128 bytes"
    } else if !name.chars().all(is_printable) {
        "has a control, bidirectional or invisible character"
    } else {
        return Ok(());
    };
    Err(Error::BadName { name: shown(&name.chars().take(NAME_MAX).collect::<String>()), why })
}

/// The way in by which an owner came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// The D-Bus API.
    Dbus,
    /// virtlockd's protocol: a machine that libvirt started.
    Virtlockd,
}

impl Front {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Dbus, Self::Virtlockd];

    /// The word used on the bus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dbus => "dbus",
            Self::Virtlockd => "virtlockd",
        }
    }
}

/// What keeps an owner alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// A pipe whose other end somebody keeps open.
    Lifeline,
    /// A living process.
    Process {
        /// Its number, for people; the life itself is watched by a pidfd.
        pid: u32,
    },
    /// The connection of the machine's own process to virtlockd's socket, until its last copy is
    /// closed.
    Connection,
    /// Nothing: the owner stays until it is closed, by its opener's explicit wish.
    Manual,
}

impl Anchor {
    /// The word used on the bus.
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

/// Numbers anchors over the life of the service.
pub type AnchorId = u64;

/// An owner as the table knows it.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Which one.
    pub id: OwnerId,
    /// The machine's name.
    pub name: String,
    /// What its locks are for, as its opener says; empty where it does not say.
    pub why: String,
    /// How it came in.
    pub front: Front,
    /// What becomes of its processes when a lock of its is lost.
    pub on_lost: OnLost,
    /// When it was opened, in microseconds since 1970.
    pub since: u64,
    /// What keeps it alive; numbered in the order in which they came.
    pub anchors: BTreeMap<AnchorId, Anchor>,
    /// The locks it holds or is about to hold.
    pub locks: BTreeSet<u64>,
    /// What it held and has given up for a while, by the numbers that the locks had.
    pub suspended: BTreeMap<u64, Arc<Want>>,
    /// All that it holds is offered to another owner.
    pub offer: Option<Offer>,
    /// Who has what it remembers, and gives it back should it end.
    pub handed_to: Option<OwnerId>,
    /// The locks that it has from others, who remember them.
    pub came_from: BTreeMap<u64, OwnerId>,
    /// It is there for others to see: not while it is being opened, which may wait for its first locks.
    pub opened: bool,
    /// It has lost its last anchor or was closed; it goes when its last lock has gone.
    pub ended: bool,
}

/// What one owner holds, offered to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Who knows this may have it.
    pub token: Uuid,
    /// Until when, in microseconds since boot (`CLOCK_BOOTTIME`, `clock_gettime(2)`).
    pub until: u64,
    /// The number of its record.
    pub record: AnchorId,
}

impl Owner {
    /// A new owner without anchors or locks.
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
            came_from: BTreeMap::new(),
            opened: true,
            ended: false,
        }
    }

    /// Whether it has given up something for a while.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        !self.suspended.is_empty()
    }

    /// The word for that.
    #[must_use]
    pub fn state(&self) -> &'static str {
        if self.is_suspended() { "suspended" } else { "running" }
    }

    /// The process it is bound to, the first of several; 0 where there is none.
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
    fn one_spelling_of_a_uuid() {
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
            assert!(matches!(parse_uuid(wrong), Err(Error::BadUuid(_))), "{wrong}");
        }
    }

    #[test]
    fn every_name_can_be_shown() {
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

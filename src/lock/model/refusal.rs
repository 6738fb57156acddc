//! Refusals and their texts: the holders that conflict with a request.

use std::fmt;

use super::mode::Mode;
use super::owner::OwnerId;
use super::process::{Machine, Process};
use super::process_search::ForeignLock;
use crate::lock::model::holder_entry::Recorded;
use crate::lock::model::lease_name::spoken as named;
use crate::lock::model::process_search::{Processes, Search};
use crate::lock::text::escape::shown;
use crate::lock::text::why::remark;

/// An owner of this service that holds a requested resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The number of its lock.
    pub lock: u64,
    /// The owner.
    pub owner: OwnerId,
    /// The name of the VM.
    pub name: String,
    /// The reason for its locks; empty if it has none.
    pub why: String,
    /// The process that it is bound to; 0 if there is none.
    pub pid: u32,
    /// The mode of the lock.
    pub mode: Mode,
    /// When the lock was acquired, in microseconds since 1970.
    pub since: u64,
    /// The name by which it was locked, exactly as given.
    pub resource: String,
    /// The relation of the locked resource to the requested one.
    pub relation: Relation,
    /// When its reservation ends, in microseconds since boot: it has released the lock, and may
    /// reclaim it until then.
    pub reserved_until: Option<u64>,
    /// The processes that hold its lifelines, if they were searched for.
    pub kept_by: Processes,
}

/// The relation of a locked resource to a requested one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// They are the same resource, perhaps by different names.
    Same,
    /// The requested resource lies on the locked one.
    Beneath,
    /// The locked resource lies on the requested one.
    Above,
    /// Both lie on a third file or device, and overlap there.
    Overlapping,
}

impl Relation {
    /// Returns what a message adds to the name of the locked resource.
    #[must_use]
    pub fn remark(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Beneath => ", on which it lies",
            Self::Above => ", which lies on it",
            Self::Overlapping => ", which overlaps it",
        }
    }
}

/// Why a request is refused: the owners of this service that block it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The requested name, exactly as given.
    pub resource: String,
    /// The holders; after them, the owners for which it is reserved. Empty only if a waiter with
    /// priority is about to be granted it.
    pub holders: Vec<Holder>,
    /// The earlier waiter for the resource that the request must not overtake.
    pub ahead: Option<Ahead>,
    /// The other processes that have the disk open, if they were searched for.
    pub users: Processes,
}

/// An owner of this service that waits, and must not be overtaken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// The owner.
    pub owner: OwnerId,
    /// The name of the VM.
    pub name: String,
    /// When its request was queued, in microseconds since 1970.
    pub since: u64,
}

impl fmt::Display for Refusal {
    /// Formats what the table knows. User names and local time are added where they can be looked
    /// up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, holders, ahead, users } = self;
        write!(f, "{} is", named(&shown(resource)))?;
        for (n, Holder { mode, name, owner, reserved_until, why, .. }) in holders.iter().enumerate()
        {
            let (and, locked) = if n == 0 { ("", " locked") } else { (" and", "") };
            let why = remark(why);
            match reserved_until {
                None => {
                    let how = mode.adverb();
                    write!(f, "{and}{locked} {how} by VM \"{name}\" ({owner}{why})")?;
                }
                Some(_) => write!(f, "{and} reserved for VM \"{name}\" ({owner}{why})")?,
            }
        }
        if let Some(Ahead { owner, name, .. }) = ahead {
            let comma = if holders.is_empty() { "" } else { "," };
            write!(f, "{comma} waited for by VM \"{name}\" ({owner}), which has priority")?;
        }
        f.write_str(&using(users, &Plain))
    }
}

/// A foreign holder: a program or host that is not an owner of this service and holds a requested
/// resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignHolder {
    /// The requested name, exactly as given.
    pub resource: String,
    /// The file whose byte is locked, if it is not the resource itself.
    pub lock_file: Option<String>,
    /// The mode of its lock.
    pub mode: Mode,
    /// The type of its lock: a byte range lock or a file lease (`F_SETLEASE`).
    pub by: ForeignLock,
    /// The processes on this host that have the lock, as the kernel reports them.
    pub processes: Processes,
    /// The holders of this host or other hosts according to holder records: a hint only.
    pub recorded: Vec<Recorded>,
    /// The other processes that have the disk open.
    pub users: Processes,
    /// Whether `processes` and `users` are known.
    pub naming: Naming,
}

/// The state of the search for a foreign holder's processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Naming {
    /// It is finished, or not wanted.
    #[default]
    Done,
    /// It is still to be done.
    Needed(Box<Unnamed>),
    /// It timed out. The number is that of the process that the kernel itself reports.
    Late(Option<u32>),
}

/// The data for naming a foreign holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// The targets of the search.
    pub search: Search,
    /// The id of this host, by which its records are recognized.
    pub host_id: Option<String>,
}

/// The maximum number of recorded holders that are named.
const NAMED: usize = 3;

/// Formats users and times, which needs look-ups that this module does not perform.
pub trait Words {
    /// Formats a user.
    fn user(&self, uid: u32) -> String;
    /// Formats an instant in microseconds since 1970, such as "since 14:05"; may be empty.
    fn since(&self, micros: u64) -> String;
}

/// Formats users as numbers, and omits times.
struct Plain;

impl Words for Plain {
    fn user(&self, uid: u32) -> String {
        uid.to_string()
    }

    fn since(&self, _micros: u64) -> String {
        String::new()
    }
}

impl ForeignHolder {
    /// Returns the message, with users and times in the words of the caller.
    #[must_use]
    pub fn sentence(&self, words: &impl Words) -> String {
        let resource = shown(&self.resource);
        let held = match self.by {
            ForeignLock::Byte => format!("is locked {} by", self.mode.adverb()),
            ForeignLock::Lease => "is kept by a lease (F_SETLEASE) of".to_owned(),
        };
        let mut names = Vec::new();
        if !self.recorded.is_empty() {
            names.push(self.describe_recorded(&resource, words));
        }
        let processes = &self.processes;
        names.extend(
            processes.named.iter().map(|process| spoken(process, "another program ", words)),
        );
        if processes.more > 0 {
            names.push(format!("{} more", processes.more));
        }
        match self.naming {
            Naming::Late(Some(pid)) => {
                names.push(format!("another program (pid {pid}, not identified in time)"));
            }
            Naming::Late(None) | Naming::Needed(_) if names.is_empty() => {
                names.push(
                    "another program or host, which could not be identified in time".to_owned(),
                );
            }
            _ if names.is_empty() => {
                names.push("another program or host that the kernel does not name".to_owned());
            }
            _ => {}
        }
        let names = names.join(", and ");
        let file = self.lock_file.as_ref();
        let file = file.map(|file| format!(", through lock file {file}")).unwrap_or_default();
        let resource = named(&resource);
        format!("{resource} {held} {names}{file}{}", using(&self.users, words))
    }

    fn describe_recorded(&self, resource: &str, words: &impl Words) -> String {
        let s = if self.recorded.len() == 1 { "" } else { "s" };
        let named = self.recorded.iter().take(NAMED).map(|recorded| {
            let Recorded { host, entry, .. } = recorded;
            let pid = if entry.pid == 0 { String::new() } else { format!(", pid {}", entry.pid) };
            let (name, uuid, user) = (&entry.name, entry.uuid, &entry.user);
            let why = remark(&entry.why);
            let since = match words.since(entry.since) {
                since if since.is_empty() => since,
                since => format!(" {since}"),
            };
            let path = match entry.path.as_str() {
                path if path.is_empty() || path == resource => String::new(),
                path => format!(", as {path}"),
            };
            format!("VM \"{name}\" ({uuid}{pid}, user {user}{why}) on host {host}{since}{path}")
        });
        let named = named.collect::<Vec<_>>().join(", and ");
        let more = match self.recorded.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        format!("its last recorded holder{s}, {named}{more}")
    }
}

/// Formats a process for display: as the VM that it runs, or as a program; `other` precedes the
/// latter.
fn spoken(process: &Process, other: &str, words: &impl Words) -> String {
    let Process { pid, program, uid, machine, .. } = process;
    let user = words.user(*uid);
    match machine {
        Some(Machine { name, .. }) if !name.is_empty() => {
            format!("QEMU \"{name}\" (pid {pid}, user {user})")
        }
        _ if other.is_empty() => format!("{program} (pid {pid}, user {user})"),
        _ => format!("{other}({program}, pid {pid}, user {user})"),
    }
}

/// Returns the phrase that follows a holder, about the processes that hold its lifelines.
#[must_use]
pub fn kept_by(processes: &Processes) -> String {
    let name = |process: &Process| format!("{} (pid {})", process.program, process.pid);
    let mut names: Vec<String> = processes.named.iter().map(name).collect();
    if processes.more > 0 {
        names.push(format!("{} more", processes.more));
    }
    if names.is_empty() {
        return String::new();
    }
    format!("; its lifeline is held by {}", names.join(" and "))
}

/// Returns the end of a refusal, about the processes that have the disk open.
#[must_use]
pub fn using(users: &Processes, words: &impl Words) -> String {
    let mut names: Vec<String> =
        users.named.iter().map(|process| spoken(process, "", words)).collect();
    if users.more > 0 {
        names.push(format!("{} more", users.more));
    }
    let has = if names.len() == 1 { "has" } else { "have" };
    if names.is_empty() {
        return String::new();
    }
    format!("; {} {has} it open", names.join(" and "))
}

impl fmt::Display for ForeignHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(&Plain))
    }
}

#[cfg(test)]
mod tests;

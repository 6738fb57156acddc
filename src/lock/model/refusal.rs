//! Who is in the way: what a refusal has to say.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::mode::Mode;
use super::owner::OwnerId;
use super::process::{Machine, Process};
use crate::lock::foreign::fdinfo::{Processes, Search};
use crate::lock::holder_record::format::Recorded;
use crate::lock::model::lease_name::spoken as named;
use crate::lock::text::escape::shown;
use crate::lock::text::why::remark;

/// An owner of ours that holds what somebody else asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The number of the lock it holds.
    pub lock: u64,
    /// Which owner.
    pub owner: OwnerId,
    /// The machine's name.
    pub name: String,
    /// What its locks are for, as its opener says; empty where it does not say.
    pub why: String,
    /// The process it is bound to; 0 where there is none.
    pub pid: u32,
    /// How it holds.
    pub mode: Mode,
    /// Since when, in microseconds since 1970.
    pub since: u64,
    /// The name by which it holds it, to the letter.
    pub resource: String,
    /// What this is to what was asked for.
    pub relation: Relation,
    /// It has released the lock, and may acquire it again until then, in microseconds since boot;
    /// it is reserved for it meanwhile.
    pub reserved_until: Option<u64>,
    /// The processes that hold its lifelines, where they were looked for.
    pub kept_by: Processes,
}

/// What is held, to who asks for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same, if perhaps by another name.
    Same,
    /// What is asked for lies on it.
    Beneath,
    /// It lies on what is asked for.
    Above,
    /// Both lie on a third file or device, and overlap there.
    Overlapping,
}

impl Relation {
    /// What is added, for people, to the name of what is held.
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

/// Why an owner of ours does not get what it asks for: holders of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The name that was asked for, to the letter.
    pub resource: String,
    /// The holders; after them, the owners for which it is reserved. Empty only where a waiter with
    /// priority is about to be granted it.
    pub holders: Vec<Holder>,
    /// Who waits for it and came before: those who hold it would perhaps let one more in.
    pub ahead: Option<Ahead>,
    /// Who else has the disk open, where that was looked for.
    pub users: Processes,
}

/// An owner of ours that waits, and is not to be overtaken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// Which owner.
    pub owner: OwnerId,
    /// The machine's name.
    pub name: String,
    /// Since when it waits, in microseconds since 1970.
    pub since: u64,
}

impl fmt::Display for Refusal {
    /// What the table alone knows; users and local time are added where they can be looked up.
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

/// Somebody who is no owner of ours and holds what an owner asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// The name that was asked for, to the letter.
    pub resource: String,
    /// The file whose byte is taken, where it is not the resource itself.
    pub lock_file: Option<String>,
    /// How it is held.
    pub mode: Mode,
    /// By what kind of lock: a byte range lock or a file lease (`F_SETLEASE`).
    pub by: StrangersLock,
    /// The processes on this host that have the lock, as far as the kernel tells.
    pub processes: Processes,
    /// Who recorded that he holds it, here or on another host: a hint, and no more.
    pub recorded: Vec<Recorded>,
    /// Who else has the disk open.
    pub users: Processes,
    /// Whether `processes` and `users` are known.
    pub naming: Naming,
}

/// How far a foreign holder's processes are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Naming {
    /// As far as they can be known; or they are not wanted.
    #[default]
    Done,
    /// They have to be looked for.
    Needed(Box<Unnamed>),
    /// They were looked for, and there was no answer in time. The number is that of the process
    /// that the kernel itself names.
    Late(Option<u32>),
}

/// What is needed in order to name a foreign holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// What to look for.
    pub search: Search,
    /// The id of this host, by which its records are known.
    pub host_id: Option<String>,
}

/// What a stranger holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StrangersLock {
    /// A POSIX or open file description lock on our byte.
    Byte,
    /// A lease, which the kernel breaks within `/proc/sys/fs/lease-break-time`.
    Lease,
}

/// How many holders on record are named.
const NAMED: usize = 3;

/// How users and times are spelt, which takes a look at more than is known here.
pub trait Words {
    /// A user.
    fn user(&self, uid: u32) -> String;
    /// Since when, in microseconds since 1970, as in "since 14:05"; or nothing.
    fn since(&self, micros: u64) -> String;
}

/// Users as numbers, and no times.
struct Plain;

impl Words for Plain {
    fn user(&self, uid: u32) -> String {
        uid.to_string()
    }

    fn since(&self, _micros: u64) -> String {
        String::new()
    }
}

impl Stranger {
    /// The sentence, with users and times as the caller knows to spell them.
    #[must_use]
    pub fn sentence(&self, words: &impl Words) -> String {
        let resource = shown(&self.resource);
        let held = match self.by {
            StrangersLock::Byte => format!("is locked {} by", self.mode.adverb()),
            StrangersLock::Lease => "is kept by a lease (F_SETLEASE) of".to_owned(),
        };
        let mut who = Vec::new();
        if !self.recorded.is_empty() {
            who.push(self.on_record(&resource, words));
        }
        let processes = &self.processes;
        who.extend(
            processes.named.iter().map(|process| spoken(process, "another program ", words)),
        );
        if processes.more > 0 {
            who.push(format!("{} more", processes.more));
        }
        match self.naming {
            Naming::Late(Some(pid)) => {
                who.push(format!("another program (pid {pid}, not identified in time)"));
            }
            Naming::Late(None) | Naming::Needed(_) if who.is_empty() => {
                who.push(
                    "another program or host, which could not be identified in time".to_owned(),
                );
            }
            _ if who.is_empty() => {
                who.push("another program or host that the kernel does not name".to_owned());
            }
            _ => {}
        }
        let who = who.join(", and ");
        let file = self.lock_file.as_ref();
        let file = file.map(|file| format!(", through lock file {file}")).unwrap_or_default();
        let resource = named(&resource);
        format!("{resource} {held} {who}{file}{}", using(&self.users, words))
    }

    fn on_record(&self, resource: &str, words: &impl Words) -> String {
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

/// A process for people: as the machine that it runs, or as a program; `other` goes before the
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

/// What is said, after a holder, of the processes that hold its lifelines.
#[must_use]
pub fn kept_by(processes: &Processes) -> String {
    let name = |process: &Process| format!("{} (pid {})", process.program, process.pid);
    let mut who: Vec<String> = processes.named.iter().map(name).collect();
    if processes.more > 0 {
        who.push(format!("{} more", processes.more));
    }
    if who.is_empty() {
        return String::new();
    }
    format!("; its lifeline is held by {}", who.join(" and "))
}

/// What a refusal says, at its end, of those who have the disk open.
#[must_use]
pub fn using(users: &Processes, words: &impl Words) -> String {
    let mut who: Vec<String> =
        users.named.iter().map(|process| spoken(process, "", words)).collect();
    if users.more > 0 {
        who.push(format!("{} more", users.more));
    }
    let has = if who.len() == 1 { "has" } else { "have" };
    if who.is_empty() {
        return String::new();
    }
    format!("; {} {has} it open", who.join(" and "))
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(&Plain))
    }
}

#[cfg(test)]
mod tests;

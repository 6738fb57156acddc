//! Who is in the way: what a refusal has to say.

use std::fmt;

use super::mode::Mode;
use super::owner::OwnerId;
use super::printable::shown;

/// An owner of ours that holds what somebody else asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The number of the lock it holds.
    pub lock: u64,
    /// Which owner.
    pub owner: OwnerId,
    /// The machine's name.
    pub name: String,
    /// The process it is bound to; 0 where there is none.
    pub pid: u32,
    /// How it holds.
    pub mode: Mode,
    /// Since when, in microseconds since 1970.
    pub since: u64,
    /// The name by which it holds it, to the letter.
    pub resource: String,
}

/// Why an owner of ours does not get what it asks for: holders of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The name that was asked for, to the letter.
    pub resource: String,
    /// Who holds it. Empty only where somebody is ahead who is just about to.
    pub holders: Vec<Holder>,
    /// Who waits for it and came before: those who hold it would perhaps let one more in.
    pub ahead: Option<Ahead>,
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
        let Self { resource, holders, ahead } = self;
        let is = if holders.is_empty() { "is" } else { "is locked" };
        write!(f, "disk {} {is}", shown(resource))?;
        for (n, holder) in holders.iter().enumerate() {
            let and = if n == 0 { "" } else { " and" };
            write!(
                f,
                "{and} {} by VM \"{}\" ({})",
                holder.mode.adverb(),
                holder.name,
                holder.owner
            )?;
        }
        if let Some(Ahead { owner, name, .. }) = ahead {
            let comma = if holders.is_empty() { "" } else { "," };
            write!(f, "{comma} waited for by VM \"{name}\" ({owner}), which comes first")?;
        }
        Ok(())
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
    /// The process, as far as the kernel tells.
    pub process: Option<Process>,
}

/// What a stranger holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrangersLock {
    /// A POSIX or open file description lock on our byte.
    Byte,
    /// A lease, which the kernel breaks within `/proc/sys/fs/lease-break-time`.
    Lease,
}

/// A process on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number in our pid namespace.
    pub pid: u32,
    /// Its program, as in `/proc/PID/comm`, escaped.
    pub program: String,
    /// Its real user.
    pub uid: u32,
}

impl Stranger {
    /// The sentence, with the process's user as the caller knows to spell it.
    #[must_use]
    pub fn sentence(&self, user: &str) -> String {
        let resource = shown(&self.resource);
        let held = match self.by {
            StrangersLock::Byte => format!("is locked {} by", self.mode.adverb()),
            StrangersLock::Lease => "is kept by a lease (F_SETLEASE) of".to_owned(),
        };
        let who = match &self.process {
            Some(Process { pid, program, .. }) => {
                format!("another program ({program}, pid {pid}, user {user})")
            }
            None => "another program or host that the kernel does not name".to_owned(),
        };
        match &self.lock_file {
            Some(file) => format!("disk {resource} {held} {who}, through lock file {file}"),
            None => format!("disk {resource} {held} {who}"),
        }
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user =
            self.process.as_ref().map_or_else(String::new, |process| process.uid.to_string());
        f.write_str(&self.sentence(&user))
    }
}

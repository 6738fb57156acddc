//! The operations: one step of a sequence, and its form in a script.

use std::fmt;

use vmlockd::lock::Mode;

/// How many machines there are.
pub(super) const VMS: usize = 5;
/// How many disks.
pub(super) const DISKS: usize = 4;

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Vm(pub(super) usize);

/// A disk, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Disk(pub(super) usize);

/// The name by which a request refers to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// By its name.
    Name,
    /// By another that leads to it.
    Alias,
    /// By a descriptor.
    Open,
}

/// A requested disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskRequest {
    pub(super) disk: Disk,
    pub(super) spelling: Spelling,
    pub(super) mode: Mode,
}

/// The anchor of a VM that is being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Lifeline,
    Manual,
}

/// The handling of a request that cannot be granted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It is refused.
    No,
    /// It waits until it is granted or withdrawn.
    Long,
    /// It waits, and its time is over at once.
    Over,
}

/// The caller of a request to end something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The machine's own user.
    Itself,
    /// Another user.
    Another,
    /// Another user, who insists.
    Force,
}

/// One step. The objects that it names need not exist: the error is compared, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Open {
        vm: Vm,
        anchor: Anchor,
        disk_requests: Vec<DiskRequest>,
        wait: Wait,
    },
    /// Creates another lifeline for a VM.
    NewLifeline(Vm),
    /// Closes the newest lifeline of a machine.
    Drop(Vm),
    Acquire {
        vm: Vm,
        disk_requests: Vec<DiskRequest>,
        wait: Wait,
    },
    Release {
        vm: Vm,
        disks: Vec<Disk>,
        by: By,
    },
    Convert {
        vm: Vm,
        disk: Disk,
        mode: Mode,
        wait: Wait,
    },
    Suspend {
        vm: Vm,
        by: By,
    },
    Resume {
        vm: Vm,
        wait: Wait,
    },
    /// Offers all that a machine holds: for long, or for no time at all.
    Offer {
        vm: Vm,
        by: By,
        lasting: bool,
    },
    /// A machine adopts by the newest token that another one was given.
    Adopt {
        vm: Vm,
        from: Vm,
    },
    Close {
        vm: Vm,
        by: By,
    },
    /// Withdraws all that a machine waits for, and what it offers.
    Cancel(Vm),
    /// The caller of the oldest waiting call of a VM disconnects.
    Leave(Vm),
    /// The service is killed, and comes back; meanwhile these lose all their lifelines.
    Restart(Vec<Vm>),
}

impl fmt::Display for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vm{}", self.0)
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk{}", self.0)
    }
}

impl fmt::Display for DiskRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.spelling {
            Spelling::Name => "",
            Spelling::Alias => " (alias)",
            Spelling::Open => " (descriptor)",
        };
        write!(f, "{}{by} {}", self.disk, self.mode)
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Itself => "",
            Self::Another => ", by another user",
            Self::Force => ", by force",
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "",
            Self::Long => ", or waits",
            Self::Over => ", or waits for no time",
        })
    }
}

/// A list with commas.
pub(super) fn list<T: fmt::Display>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { vm, anchor, disk_requests, wait } => {
                let anchor = if *anchor == Anchor::Lifeline { "" } else { " (manual)" };
                write!(f, "open {vm}{anchor} with {}{wait}", list(disk_requests))
            }
            Self::NewLifeline(vm) => write!(f, "another lifeline for {vm}"),
            Self::Drop(vm) => write!(f, "close the newest lifeline of {vm}"),
            Self::Acquire { vm, disk_requests, wait } => {
                write!(f, "{vm} acquires {}{wait}", list(disk_requests))
            }
            Self::Release { vm, disks, by } => write!(f, "{vm} releases {}{by}", list(disks)),
            Self::Convert { vm, disk, mode, wait } => {
                write!(f, "{vm} converts {disk} to {mode}{wait}")
            }
            Self::Suspend { vm, by } => write!(f, "suspend {vm}{by}"),
            Self::Resume { vm, wait } => write!(f, "resume {vm}{wait}"),
            Self::Offer { vm, by, lasting } => {
                let time = if *lasting { "" } else { " for no time" };
                write!(f, "{vm} offers{time} what it holds{by}")
            }
            Self::Adopt { vm, from } => write!(f, "{vm} adopts what {from} offered"),
            Self::Close { vm, by } => write!(f, "close {vm}{by}"),
            Self::Cancel(vm) => write!(f, "cancel what {vm} waits for and offers"),
            Self::Leave(vm) => write!(f, "the first who waits for an answer for {vm} goes away"),
            Self::Restart(dying) => {
                write!(f, "the service is killed and comes back; meanwhile dies: {}", list(dying))
            }
        }
    }
}

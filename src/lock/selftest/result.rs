//! The result of the lock self-test, and its texts.

use std::time::Duration;

use rustix::io::Errno;

use crate::lock::selftest::run::Step;
use crate::lock::text::errno::errno_description;

/// The scope of the locks on a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelfTestResult {
    /// They exclude programs on this host and on all others that mount it.
    Shared,
    /// They exclude programs on this host only.
    Local(Local),
    /// They exclude programs on this host. Whether they exclude other hosts is unknown.
    Unknown(Unknown),
    /// They exclude no program, or cannot be acquired.
    Unfit(Flaw),
    /// The self-test has no result.
    Untested(Untested),
}

/// Why locks are local to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// The file system is on a device of this host, or in its memory.
    OwnDevice,
    /// It lies on other file systems, and does not forward its locks to them.
    Overlay,
    /// The host shares it with a VM, and does not forward the VM's locks to its own file system.
    Lent,
    /// A process serves it without support for POSIX locks, so that the kernel keeps them.
    Process,
    /// It is shared, but an option of the mount, or of its creation, keeps the locks local.
    Option(String),
    /// Its kernel driver sends no POSIX locks to a server.
    Driver,
}

/// Why it is unknown whether locks exclude other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Its type is unknown.
    Type,
    /// A process serves it, and decides what it does with requested locks.
    Server,
    /// The host that shares it with this VM decides.
    Lent,
    /// Hosts share locks there only with a setting that the mount does not show.
    NotShown(&'static str),
}

/// Why no lock is reliable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// No file can be created there.
    ReadOnly,
    /// The server maps root to an unprivileged user (root squash).
    Squashed,
    /// The file system does not support locks.
    NoLocks(Errno),
    /// A lock operation had a wrong outcome.
    Broken(Step, String),
}

/// Why the self-test has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untested {
    /// The file system did not respond for this long.
    Unresponsive(Duration),
    /// The service's user may not create a file there.
    Forbidden,
    /// An operation failed for a reason that is unrelated to locks.
    Failed(Step, Errno),
    /// The subprocess could not be started.
    NoProcess(String),
}

/// A restriction of locks that are usable otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caveat {
    /// The server keeps the locks of a host that has vanished.
    KeptForEver,
    /// The kernel reacquires lost locks without reporting the loss.
    RecoversLost,
    /// Other processes cannot read or write a locked range.
    Mandatory,
    /// The files that root creates belong to another user.
    Squashed(u32),
}

impl SelfTestResult {
    /// Returns the word used on D-Bus.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Local(Local::OwnDevice) => "local",
            Self::Local(_) => "not-shared",
            Self::Unknown(_) => "unknown",
            Self::Unfit(_) => "unusable",
            Self::Untested(_) => "untested",
        }
    }

    /// Returns a sentence about the locks there.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Shared => "locks are enforced on every host that mounts it".to_owned(),
            Self::Local(why) => {
                format!("locks are enforced on this host only: {}", why.sentence())
            }
            Self::Unknown(why) => format!(
                "locks are enforced on this host; it is unknown whether they are enforced on other hosts: {}",
                why.sentence()
            ),
            Self::Unfit(flaw) => flaw.sentence(),
            Self::Untested(why) => format!("not tested: {}", why.sentence()),
        }
    }

    /// Returns what an administrator can do about it, if anything.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Shared | Self::Local(Local::OwnDevice) => None,
            Self::Local(why) => Some(why.advice()),
            Self::Unknown(why) => Some(why.advice()),
            Self::Unfit(flaw) => Some(flaw.advice()),
            Self::Untested(why) => Some(why.advice()),
        }
    }

    /// Returns the sentence and the advice, for display.
    #[must_use]
    pub fn sentence_and_advice(&self) -> String {
        match self.advice() {
            Some(advice) => format!("{}; {advice}", self.sentence()),
            None => self.sentence(),
        }
    }

    /// Whether other hosts may have it mounted, and this host may see their locks.
    #[must_use]
    pub fn may_be_shared(&self) -> bool {
        matches!(self, Self::Shared | Self::Unknown(_))
    }
}

impl Local {
    fn sentence(&self) -> String {
        match self {
            Self::OwnDevice => "other hosts cannot mount the file system".to_owned(),
            Self::Overlay => "an overlay does not share locks with its layers".to_owned(),
            Self::Lent => {
                "a file system that a host shares with a VM does not share locks with the host"
                    .to_owned()
            }
            Self::Process => {
                "it is served by a process, and the kernel does not pass locks to that process"
                    .to_owned()
            }
            Self::Option(option) => format!("mount option '{option}' keeps locks local"),
            Self::Driver => "its driver does not send locks to a server".to_owned(),
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::OwnDevice => "if hosts share disks, use a file system that they share",
            Self::Overlay => "use the file system of the layer directly",
            Self::Lent => "in the VM, use storage that the VM mounts itself",
            Self::Process | Self::Driver => {
                "if other hosts use it, keep lock files on a file system that shares locks"
            }
            Self::Option(_) => "if other hosts use it, mount it without this option on all of them",
        }
    }
}

impl Unknown {
    fn sentence(self) -> String {
        match self {
            Self::Type => "file systems of its type are not known to share locks".to_owned(),
            Self::Server => "it is served by a process that is not known to share locks".to_owned(),
            Self::Lent => {
                "it is shared with this VM by its host, whose settings are unknown".to_owned()
            }
            Self::NotShown(setting) => {
                format!(
                    "hosts share locks only with {setting}, which the mount options do not show"
                )
            }
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Type | Self::Server | Self::NotShown(_) => {
                "if other hosts use it, check that a lock on one host is refused on another, or keep \
                 lock files on a file system that shares locks"
            }
            Self::Lent => "in the VM, use storage that the VM mounts itself",
        }
    }
}

impl Flaw {
    fn sentence(&self) -> String {
        match self {
            Self::ReadOnly => "it is mounted read-only".to_owned(),
            Self::Squashed => "root cannot create files there, as with 'root_squash'".to_owned(),
            Self::NoLocks(errno) => {
                format!("its file system does not support locks ({})", errno_description(*errno))
            }
            Self::Broken(_, how) => how.clone(),
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::ReadOnly => "mount it read-write",
            Self::Squashed => "on the server, export it with 'no_root_squash'",
            Self::NoLocks(_) => {
                "start its lock service (for NFS 3, rpc.statd), or use another file system"
            }
            Self::Broken(..) => "two VMs could write to one disk: use another file system",
        }
    }
}

impl Untested {
    fn sentence(&self) -> String {
        match self {
            Self::Unresponsive(time) => format!("it has not responded for {} s", time.as_secs()),
            Self::Forbidden => "this user cannot create files there".to_owned(),
            Self::Failed(step, errno) => {
                format!("cannot {}: {}", step.action(), errno_description(*errno))
            }
            Self::NoProcess(why) => format!("cannot start a process for the test: {why}"),
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Unresponsive(_) => "check the server and the network path to it",
            Self::Forbidden => "run as root or as the owner of the directory",
            Self::Failed(..) | Self::NoProcess(_) => "fix this, and try again",
        }
    }
}

impl Caveat {
    /// Returns a sentence about it.
    #[must_use]
    pub fn sentence(self) -> String {
        match self {
            Self::KeptForEver => {
                "NFS before version 4 never releases the locks of a host that was powered off"
                    .to_owned()
            }
            Self::RecoversLost => {
                "with 'recover_lost_locks' the kernel acquires lost locks again without reporting the loss"
                    .to_owned()
            }
            Self::Mandatory => {
                "SMB prevents other programs from reading and writing locked files".to_owned()
            }
            Self::Squashed(uid) => format!("files that root creates there belong to uid {uid}"),
        }
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::KeptForEver => {
                "mount it with 'vers=4.2', or release the locks of such a host on the server"
            }
            Self::RecoversLost => "set the parameter 'recover_lost_locks' of the module nfs to N",
            Self::Mandatory => "use it for lock files only, not for disks that are locked directly",
            Self::Squashed(_) => "on the server, export it with 'no_root_squash'",
        }
    }
}

//! What locks on a directory's file system are worth, in words.

use std::time::Duration;

use nix::errno::Errno;

use crate::lock::selftest::run::Step;

/// What is to be thought of the locks on a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They are in the way of this host and of all others that have it mounted.
    Shared,
    /// They are in the way of this host only.
    Local(Local),
    /// They exclude programs on this host. Whether they exclude other hosts is not known.
    Unknown(Unknown),
    /// They are in nobody's way, or can't be had.
    Unfit(Flaw),
    /// It was not to be found out.
    Untested(Untested),
}

/// Why locks are this host's only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// The file system is on a device of this host's, or in its memory.
    OwnDevice,
    /// It lies on others, and its locks are not theirs.
    Overlay,
    /// The host lends it to a machine, and keeps the machine's locks out of it.
    Lent,
    /// A process serves it without POSIX locks of its own, so that the kernel keeps them.
    Process,
    /// It is shared, but an option of the mount, or what it was made with, keeps the locks here.
    Option(String),
    /// Its driver in the kernel sends no POSIX locks to a server.
    Driver,
}

/// Why it is not known whether locks exclude other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Nothing is known of its type.
    Type,
    /// A process serves it, and decides what becomes of the locks that it is asked for.
    Server,
    /// The host that lends it to a VM decides.
    Lent,
    /// Hosts share locks there only with a setting that the mount does not show.
    NotShown(&'static str),
}

/// Why no lock can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing can be made there.
    ReadOnly,
    /// Root is nobody there.
    Squashed,
    /// The file system gives no locks.
    NoLocks(Errno),
    /// A lock was not what it has to be.
    Broken(Step, String),
}

/// Why it was not to be found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untested {
    /// There was no answer for so long.
    Silent(Duration),
    /// Who asked may not make a file there.
    Forbidden,
    /// It failed at something that says nothing of locks.
    Failed(Step, Errno),
    /// There is no process for it.
    NoProcess(String),
}

/// What should be known of locks that are good otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caveat {
    /// The server keeps the locks of a host that went without a word.
    KeptForEver,
    /// The kernel takes lost locks again, and tells nobody.
    RecoversLost,
    /// What is locked can't be read or written by anybody else.
    Mandatory,
    /// What root makes belongs to somebody else.
    Squashed(u32),
}

impl Verdict {
    /// In a word, as it is told on the bus.
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

    /// In a sentence, of which the subject is the locks there.
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

    /// What somebody can do about it, where there is anything to be done.
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

    /// Both, for people.
    #[must_use]
    pub fn said(&self) -> String {
        match self.advice() {
            Some(advice) => format!("{}; {advice}", self.sentence()),
            None => self.sentence(),
        }
    }

    /// Whether other hosts may have it mounted, and their locks may be seen here.
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
                format!("its file system does not support locks ({})", errno.desc())
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
            Self::Silent(time) => format!("it has not responded for {} s", time.as_secs()),
            Self::Forbidden => "this user cannot create files there".to_owned(),
            Self::Failed(step, errno) => format!("cannot {}: {}", step.deed(), errno.desc()),
            Self::NoProcess(why) => format!("cannot start a process for the test: {why}"),
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Silent(_) => "check the server and the network path to it",
            Self::Forbidden => "run as root or as the owner of the directory",
            Self::Failed(..) | Self::NoProcess(_) => "fix this, and try again",
        }
    }
}

impl Caveat {
    /// In a sentence.
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

    /// What to do.
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

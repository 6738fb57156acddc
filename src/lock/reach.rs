//! How far the locks on a mount reach, by what the kernel says of the mount.
//!
//! No program on one host can find that out by trying: that another host is refused is seen only
//! there. What is known is what types of file systems do, and which options keep locks at home.

use std::fs;

use super::mount::Mount;
use super::verdict::{Caveat, Local};

/// What a mount says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Why its locks are this host's only; `None`: they are in the way of other hosts, too.
    pub local: Option<Local>,
    /// Nothing can be made on it.
    pub read_only: bool,
    /// What else should be known.
    pub caveats: Vec<Caveat>,
}

/// What the kernel was told about file systems of a type as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parameters {
    /// NFS takes locks again that a server has forgotten.
    pub recover_lost_locks: bool,
}

impl Parameters {
    /// Those of this moment.
    #[must_use]
    pub fn now() -> Self {
        let set = fs::read_to_string("/sys/module/nfs/parameters/recover_lost_locks");
        Self { recover_lost_locks: set.is_ok_and(|set| set.trim_end() == "Y") }
    }
}

/// File systems that a process serves and that pass locks on to their servers.
const PROCESSES: [&str; 5] =
    ["fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.mfs"];

/// What locks on a mount are worth by its type and options.
#[must_use]
pub fn told(mount: &Mount, parameters: Parameters) -> Told {
    let mut caveats = Vec::new();
    let local = match mount.kind.as_str() {
        "nfs" | "nfs4" => {
            if mount.kind == "nfs" && !mount.option("vers").is_some_and(|v| v.starts_with('4')) {
                caveats.push(Caveat::KeptForEver);
            } else if parameters.recover_lost_locks {
                caveats.push(Caveat::RecoversLost);
            }
            // "flock" keeps those of another kind at home.
            of_options(mount, &["nolock", "local_lock=all", "local_lock=posix"])
        }
        "cifs" | "smb3" => {
            let local = of_options(mount, &["nobrl", "nolock"]);
            if local.is_none() {
                caveats.push(Caveat::Mandatory);
            }
            local
        }
        "ceph" => None,
        "gfs2" => of_options(mount, &["localflocks", "lockproto=lock_nolock"]),
        "ocfs2" => of_options(mount, &["localflocks", "heartbeat=none"]),
        "lustre" => of_options(mount, &["localflock"]),
        "overlay" => Some(Local::Overlay),
        "virtiofs" | "9p" => Some(Local::Lent),
        kind if PROCESSES.contains(&kind) => None,
        // MooseFS gives its mounts no type of their own.
        "fuse" if mount.source.starts_with("mfs#") => None,
        "fuse" | "fuseblk" => Some(Local::Process),
        kind if kind.starts_with("fuse.") => Some(Local::Process),
        _ if mount.is_far() => Some(Local::UnknownType),
        _ => Some(Local::OwnDevice),
    };
    Told { local, read_only: mount.option("ro").is_some(), caveats }
}

fn of_options(mount: &Mount, options: &[&str]) -> Option<Local> {
    let set = |option: &&&str| match option.split_once('=') {
        Some((name, value)) => mount.option(name) == Some(value),
        None => mount.option(option).is_some(),
    };
    options.iter().find(set).map(|option| Local::Option((*option).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::mount::Mounts;

    fn of(kind: &str, options: &str) -> Told {
        of_line(&format!("22 21 0:30 / /mnt rw,relatime - {kind} source rw,{options}"))
    }

    fn of_line(line: &str) -> Told {
        let mounts = Mounts::parse(line.as_bytes());
        told(mounts.iter().next().unwrap(), Parameters::default())
    }

    fn option(text: &str) -> Local {
        Local::Option(text.to_owned())
    }

    #[test]
    fn shared_are_those_that_pass_locks_on() {
        for (kind, options) in [
            ("nfs4", "vers=4.2,hard,local_lock=none,addr=10.0.0.1"),
            ("nfs", "vers=4.1,local_lock=flock"),
            ("nfs", "vers=3,local_lock=none"),
            ("cifs", "vers=3.1.1,nounix"),
            ("ceph", "name=admin"),
            ("fuse.mfs", "user_id=0"),
            ("fuse.glusterfs", "user_id=0"),
            ("gfs2", "lockproto=lock_dlm"),
            ("ocfs2", "heartbeat=local"),
            ("lustre", "flock"),
        ] {
            assert_eq!(of(kind, options).local, None, "{kind} {options}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_source() {
        let line = |source| format!("22 21 0:30 / /mnt rw - fuse {source} rw,user_id=0");
        assert_eq!(of_line(&line("mfs#10.0.0.1:9421")).local, None);
        assert_eq!(of_line(&line("mfsmeta#10.0.0.1:9421")).local, Some(Local::Process));
        assert_eq!(of_line(&line("/srv")).local, Some(Local::Process));
    }

    #[test]
    fn options_keep_locks_at_home() {
        for (kind, options, why) in [
            ("nfs", "vers=3,nolock,local_lock=all", "nolock"),
            ("nfs4", "vers=4.2,local_lock=posix", "local_lock=posix"),
            ("nfs", "vers=3,local_lock=all", "local_lock=all"),
            ("cifs", "vers=3.0,nobrl", "nobrl"),
            ("smb3", "nolock", "nolock"),
            ("gfs2", "lockproto=lock_nolock", "lockproto=lock_nolock"),
            ("gfs2", "localflocks", "localflocks"),
            ("lustre", "localflock", "localflock"),
        ] {
            assert_eq!(of(kind, options).local, Some(option(why)), "{kind} {options}");
        }
    }

    #[test]
    fn the_rest_is_local() {
        for (kind, why) in [
            ("ext4", Local::OwnDevice),
            ("xfs", Local::OwnDevice),
            ("btrfs", Local::OwnDevice),
            ("tmpfs", Local::OwnDevice),
            ("overlay", Local::Overlay),
            ("virtiofs", Local::Lent),
            ("9p", Local::Lent),
            ("fuse.bindfs", Local::Process),
            ("fuse.sshfs", Local::Process),
            ("fuseblk", Local::Process),
            ("somefs", Local::UnknownType),
        ] {
            assert_eq!(of(kind, "x").local, Some(why), "{kind}");
        }
    }

    #[test]
    fn what_should_be_known_is_told() {
        let of = |kind, options| of(kind, options).caveats;
        for (kind, options) in [("nfs", "vers=3"), ("nfs", "hard"), ("nfs", "vers=3,nolock")] {
            assert_eq!(of(kind, options), [Caveat::KeptForEver], "{options}");
        }
        assert_eq!(of("cifs", "nounix"), [Caveat::Mandatory]);
        assert_eq!((of("cifs", "nobrl"), of("nfs4", "vers=4.2")), (vec![], vec![]));
        let nfs = Mounts::parse(b"22 21 0:30 / /mnt rw - nfs4 nas:/x rw,vers=4.2");
        let told = told(nfs.iter().next().unwrap(), Parameters { recover_lost_locks: true });
        assert_eq!(told.caveats, [Caveat::RecoversLost]);
    }

    #[test]
    fn read_only_is_the_mount_or_the_file_system() {
        assert!(of_line("1 0 8:1 / / ro,relatime - ext4 /dev/sda1 rw").read_only);
        assert!(of_line("1 0 8:1 / / rw,relatime - ext4 /dev/sda1 ro").read_only);
        assert!(!of_line("1 0 8:1 / / rw - ext4 /dev/sda1 rw,errors=remount-ro").read_only);
    }
}

//! The scope of locks on a mount, by the type and the options that the kernel reports.
//!
//! No test on one host can show that another host is refused. It is known what each type of file
//! system does with `fcntl(2)` locks and which options keep them on this host. Disks depend on the
//! answer "shared", so it is returned only if the source or the documentation named beside a type
//! says that this very mount forwards locks; every other case is "unknown". All paths that begin
//! with `fs/` are in the Linux kernel.
//!
//! "Shared" means that every lock is decided by the server or the cluster that the hosts have in
//! common. A server that grants what its protocol forbids (Samba with `locking = no`) is not
//! detected.

use std::fs;

use crate::lock::mount::Mount;
use crate::lock::selftest::result::{Caveat, Local, Unknown};

/// The scope of locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountScope {
    /// They exclude every host that has the file system mounted.
    Shared,
    /// They exclude programs on this host only.
    Local(Local),
    /// Unknown: they may exclude programs on this host only.
    Unknown(Unknown),
}

/// The conclusions from the type and the options of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// The scope of locks on it.
    pub scope: MountScope,
    /// Whether no file can be created on it.
    pub read_only: bool,
    /// A server may treat root of this host as an ordinary user.
    pub may_squash_root: bool,
    /// Other properties that affect locks on it.
    pub caveats: Vec<Caveat>,
}

/// Kernel parameters that apply to all file systems of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parameters {
    /// The NFS client reacquires locks that a server has dropped.
    pub recover_lost_locks: bool,
}

impl Parameters {
    /// Reads the present values.
    #[must_use]
    pub fn now() -> Self {
        let set = fs::read_to_string("/sys/module/nfs/parameters/recover_lost_locks");
        Self { recover_lost_locks: set.is_ok_and(|set| set.trim_end() == "Y") }
    }
}

/// FUSE servers that decide every requested lock together with the other hosts.
///
/// - ceph-fuse, `src/client/fuse_ll.cc`: `fuse_ll_setlk` sends it to the metadata server.
/// - `GlusterFS`, `xlators/mount/fuse/src/fuse-bridge.c`: `fuse_setlk` sends it to the bricks
///   (`features/locks`).
/// - `JuiceFS`, `pkg/fuse/fuse.go`: `SetLk` sends it to the metadata engine that all clients use.
/// - `MooseFS`, mfsmount(8): the master, unless mounted with `mfsnoposixlocks`.
const FORWARDING: [&str; 5] =
    ["fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.mfs"];

/// Assesses a mount by its type and its options.
///
/// For a FUSE mount, `kept` is whether the kernel was observed to keep a lock itself instead of
/// sending it to the server; see [`crate::lock::selftest::run::Line::KeptByKernel`].
#[must_use]
pub fn assess(mount: &Mount, parameters: Parameters, kept: Option<bool>) -> Assessment {
    let scope = scope(mount, kept);
    let mut caveats = Vec::new();
    match mount.kind.as_str() {
        "nfs" if !mount.option("vers").is_some_and(|version| version.starts_with('4')) => {
            caveats.push(Caveat::KeptForEver);
        }
        "nfs" | "nfs4" if parameters.recover_lost_locks => caveats.push(Caveat::RecoversLost),
        // MS-SMB2 3.3.5.12 and 3.3.5.13: a byte range that one open has locked cannot be read or
        // written through another. No option shows whether a server with POSIX extensions differs.
        "cifs" | "smb3" if scope == MountScope::Shared => caveats.push(Caveat::Mandatory),
        _ => {}
    }
    let forwarded = self::scope(mount, Some(false));
    let may_squash_root =
        matches!(forwarded, MountScope::Shared | MountScope::Unknown(Unknown::NotShown(_)));
    Assessment { scope, read_only: mount.option("ro").is_some(), may_squash_root, caveats }
}

fn scope(mount: &Mount, kept: Option<bool>) -> MountScope {
    // Local with one of `local`, otherwise shared, which needs one of `shared` unless that is
    // empty.
    let by_options = |local: &[&str], shared: &[&str], needed: &'static str| {
        let is_set = |option: &&&str| is_set(mount, option);
        match local.iter().find(is_set) {
            Some(option) => MountScope::Local(Local::Option((*option).to_owned())),
            None if shared.is_empty() || shared.iter().any(|option| is_set(&option)) => {
                MountScope::Shared
            }
            None => MountScope::Unknown(Unknown::NotShown(needed)),
        }
    };
    match mount.kind.as_str() {
        // fs/nfs/file.c, `nfs_lock`: is_local with NFS_MOUNT_LOCAL_FCNTL, which `nolock` sets, too.
        // fs/nfs/super.c, `nfs_show_mount_options`: `local_lock=` is always shown. `flock` keeps
        // flock(2) locks local, and no others.
        "nfs" | "nfs4" => by_options(
            &["nolock", "local_lock=all", "local_lock=posix"],
            &["local_lock=none", "local_lock=flock"],
            "'local_lock=none'",
        ),
        // fs/smb/client/inode.c, `cifs_set_ops`: with `nobrl` (`nolock` is the same) the file
        // operations have no `.lock`. fs/smb/client/file.c: otherwise locks are on the server, or
        // kept under an oplock and sent before another client may open the file.
        "cifs" | "smb3" => by_options(&["nobrl", "nolock"], &[], ""),
        // fs/ceph/locks.c, `ceph_lock`: the metadata server decides; no option changes that.
        "ceph" => MountScope::Shared,
        // fs/gfs2/file.c: `gfs2_lock` uses the DLM; no `.lock` if `localflocks` is set.
        // fs/gfs2/ops_fstype.c, `gfs2_lm_mount`: the only other protocol, lock_nolock, sets it.
        "gfs2" => by_options(&["localflocks", "lockproto=lock_nolock"], &[], ""),
        "ocfs2" => ocfs2(mount),
        // lustre/llite/llite_lib.c: cluster-wide with `flock`, local with `localflock`, and
        // otherwise none (ENOSYS). `ll_show_options` shows both.
        "lustre" => by_options(&["localflock"], &["flock"], "'flock'"),
        // client_module/source/filesystem/FhgfsOpsFile.c: local unless the configuration has
        // tuneUseGlobalFileLocks, which no option shows.
        "beegfs" => {
            MountScope::Unknown(Unknown::NotShown("'tuneUseGlobalFileLocks' of its client"))
        }
        // fs/afs/flock.c, `afs_do_setlk`: a lock on a part of a file is local in the modes
        // `openafs` (the default) and `local`. OpenAFS, whose type has the same name, does the
        // same.
        "afs" => by_options(
            &["flock=openafs", "flock=local"],
            &["flock=strict", "flock=write"],
            "'flock=strict'",
        ),
        // fs/fuse/virtio_fs.c: as FUSE. virtiofsd has no POSIX locks unless an option is set, and
        // then those of the host.
        "virtiofs" if kept == Some(true) => MountScope::Local(Local::Lent),
        // fs/9p/vfs_file.c, `v9fs_file_do_lock`: the server decides, and QEMU's grants everything
        // (hw/9pfs/9p.c, `v9fs_lock`).
        "virtiofs" | "9p" => MountScope::Unknown(Unknown::Lent),
        // fs/overlayfs/file.c: `ovl_file_operations` has no `.lock`: locks belong to the overlay.
        "overlay" => MountScope::Local(Local::Overlay),
        // fs/ecryptfs/file.c has `.flock` and no `.lock`; fs/vboxsf/file.c has none;
        // fs/orangefs/file.c, `orangefs_lock`: local with `local_lock`, otherwise none.
        "ecryptfs" | "vboxsf" | "orangefs" => MountScope::Local(Local::Driver),
        kind if kind == "fuse" || kind == "fuseblk" || kind.starts_with("fuse.") => {
            fuse(mount, kept)
        }
        // Also types without a public source (gpfs, acfs, vmhgfs, panfs, wekafs and others).
        _ if mount.is_remote() => MountScope::Unknown(Unknown::Type),
        // The kernel's own locks (fs/locks.c): none of these types has a `.lock`.
        _ => MountScope::Local(Local::OwnDevice),
    }
}

/// fs/ocfs2/inode.c, `ocfs2_populate_inode`: the file operations have no `.lock` with `localflocks`
/// or if the cluster stack has no POSIX locks. `stack_o2cb.c` has none, `stack_user.c` has.
/// fs/ocfs2/super.c, `ocfs2_show_options`: `cluster_stack=` is shown for each userspace stack, and
/// for o2cb if the volume names it.
fn ocfs2(mount: &Mount) -> MountScope {
    if mount.option("localflocks").is_some() {
        return MountScope::Local(Local::Option("localflocks".to_owned()));
    }
    match mount.option("cluster_stack") {
        Some(stack) if !matches!(stack, "" | "o2cb") => MountScope::Shared,
        _ => MountScope::Unknown(Unknown::NotShown("a userspace 'cluster_stack='")),
    }
}

/// fs/fuse/file.c, `fuse_file_lock`: locks are sent to the server if it announced
/// `FUSE_POSIX_LOCKS`; otherwise the kernel keeps them itself. No option shows which.
fn fuse(mount: &Mount, kept: Option<bool>) -> MountScope {
    // MooseFS does not always set a type of its own for its mounts.
    let moosefs = mount.kind == "fuse" && mount.source.starts_with("mfs#");
    let forwards = moosefs || FORWARDING.contains(&mount.kind.as_str());
    match kept {
        Some(true) => MountScope::Local(Local::Process),
        Some(false) if forwards => MountScope::Shared,
        _ => MountScope::Unknown(Unknown::Server),
    }
}

fn is_set(mount: &Mount, option: &str) -> bool {
    match option.split_once('=') {
        Some((name, value)) => mount.option(name) == Some(value),
        None => mount.option(option).is_some(),
    }
}

#[cfg(test)]
mod tests;

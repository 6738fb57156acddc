use super::*;
use crate::lock::mount::Mounts;

fn assess_line(line: &str, kept: Option<bool>) -> Assessment {
    let mounts = Mounts::parse(line.as_bytes());
    assess(mounts.iter().next().unwrap(), Parameters::default(), kept)
}

fn assess_options(kind: &str, options: &str) -> Assessment {
    let line = format!("22 21 0:30 / /mnt rw,relatime - {kind} source rw,{options}");
    assess_line(&line, None)
}

fn reach_of(kind: &str, options: &str) -> MountScope {
    assess_options(kind, options).scope
}

#[test]
fn mounts_that_forward_locks_are_shared() {
    for (kind, options) in [
        ("nfs4", "vers=4.2,hard,local_lock=none,addr=192.0.2.1"),
        ("nfs", "vers=4.1,local_lock=flock"),
        ("nfs", "vers=3,local_lock=none"),
        ("cifs", "vers=3.1.1,nounix"),
        ("smb3", "vers=3.1.1,posix,mfsymlinks"),
        ("ceph", "name=admin"),
        ("gfs2", "lockproto=lock_dlm"),
        ("gfs2", "seclabel"),
        ("ocfs2", "_netdev,heartbeat=none,nointr,cluster_stack=pcmk,coherency=full"),
        ("ocfs2", "cluster_stack=cman"),
        ("lustre", "flock,user_xattr"),
        ("afs", "flock=strict"),
    ] {
        assert_eq!(reach_of(kind, options), MountScope::Shared, "{kind} {options}");
    }
}

#[test]
fn options_keep_locks_local() {
    for (kind, options, why) in [
        ("nfs", "vers=3,nolock,local_lock=all", "nolock"),
        ("nfs4", "vers=4.2,local_lock=posix", "local_lock=posix"),
        ("nfs", "vers=3,local_lock=all", "local_lock=all"),
        ("cifs", "vers=3.0,nobrl", "nobrl"),
        ("smb3", "nolock", "nolock"),
        ("gfs2", "lockproto=lock_nolock,localflocks", "localflocks"),
        ("gfs2", "lockproto=lock_nolock", "lockproto=lock_nolock"),
        ("ocfs2", "heartbeat=none,localflocks,,cluster_stack=pcmk", "localflocks"),
        ("lustre", "localflock", "localflock"),
        ("afs", "dyn,flock=openafs", "flock=openafs"),
    ] {
        let scope = MountScope::Local(Local::Option(why.to_owned()));
        assert_eq!(reach_of(kind, options), scope, "{kind} {options}");
    }
}

/// Tests that a mount without sufficient options, or of an unknown type, is "unknown".
#[test]
fn other_mounts_are_unknown() {
    for (kind, options) in [
        ("nfs", "vers=3"),
        ("nfs4", "vers=4.2,hard"),
        ("nfs4", "vers=4.2,local_lock=of-tomorrow"),
        ("ocfs2", "heartbeat=local,nointr,coherency=full"),
        ("ocfs2", "heartbeat=none"),
        ("ocfs2", "heartbeat=global,cluster_stack=o2cb"),
        ("ocfs2", "cluster_stack="),
        ("lustre", "user_xattr"),
        ("lustre", "noflock"),
        ("beegfs", "cfgFile=/etc/beegfs/beegfs-client.conf"),
        ("afs", "dyn"),
        ("9p", "access=client,trans=virtio"),
        ("virtiofs", "relatime"),
        ("gpfs", "dev=gpfs0"),
        ("acfs", "device=/dev/asm/v1"),
        ("somefs", "flock"),
        ("fuse", "user_id=0"),
        ("fuseblk", "user_id=0"),
        ("fuse.glusterfs", "user_id=0"),
        ("fuse.bindfs", "user_id=0"),
        ("fuse.vmhgfs-fuse", "user_id=0"),
    ] {
        let scope = reach_of(kind, options);
        assert!(matches!(scope, MountScope::Unknown(_)), "{kind} {options}: {scope:?}");
    }
}

#[test]
fn a_fuse_mount_is_assessed_by_its_kernel_lock() {
    let of = |kind: &str, source: &str, kept| {
        let line = format!("22 21 0:30 / /mnt rw - {kind} {source} rw,user_id=0");
        assess_line(&line, kept).scope
    };
    for (kind, source) in [
        ("fuse.ceph", "ceph-fuse"),
        ("fuse.ceph-fuse", "ceph-fuse"),
        ("fuse.glusterfs", "gluster1:/vm"),
        ("fuse.juicefs", "JuiceFS:vm"),
        ("fuse.mfs", "mfs#192.0.2.1:9421"),
        ("fuse", "mfs#192.0.2.1:9421"),
    ] {
        assert_eq!(of(kind, source, Some(false)), MountScope::Shared, "{kind}");
        // As with mfsnoposixlocks, which no option of the mount shows.
        assert_eq!(of(kind, source, Some(true)), MountScope::Local(Local::Process), "{kind}");
        assert_eq!(of(kind, source, None), MountScope::Unknown(Unknown::Server), "{kind}");
    }
    for (kind, source) in [
        ("fuse", "mfsmeta#192.0.2.1:9421"),
        ("fuse", "/srv"),
        ("fuse.bindfs", "/srv"),
        ("fuse.sshfs", "host:/srv"),
        ("fuse.glusterfs2", "mfs#192.0.2.1:9421"),
    ] {
        assert_eq!(of(kind, source, Some(false)), MountScope::Unknown(Unknown::Server), "{kind}");
        assert_eq!(of(kind, source, Some(true)), MountScope::Local(Local::Process), "{kind}");
    }
    assert_eq!(of("virtiofs", "share", Some(true)), MountScope::Local(Local::Lent));
    assert_eq!(of("virtiofs", "share", Some(false)), MountScope::Unknown(Unknown::Lent));
    // Other clients keep a local copy of each lock that the server has granted.
    for kept in [None, Some(true), Some(false)] {
        let line = "22 21 0:30 / /mnt rw - nfs4 nas:/x rw,vers=4.2,local_lock=none";
        assert_eq!(assess_line(line, kept).scope, MountScope::Shared);
    }
}

#[test]
fn a_file_system_of_this_host_is_local() {
    for (kind, why) in [
        ("ext4", Local::OwnDevice),
        ("xfs", Local::OwnDevice),
        ("btrfs", Local::OwnDevice),
        ("tmpfs", Local::OwnDevice),
        ("overlay", Local::Overlay),
        ("ecryptfs", Local::Driver),
        ("vboxsf", Local::Driver),
        ("orangefs", Local::Driver),
    ] {
        assert_eq!(reach_of(kind, "x"), MountScope::Local(why), "{kind}");
    }
}

#[test]
fn caveats_are_reported() {
    let of = |kind, options| assess_options(kind, options).caveats;
    for (kind, options) in [("nfs", "vers=3"), ("nfs", "hard"), ("nfs", "vers=3,nolock")] {
        assert_eq!(of(kind, options), [Caveat::KeptForEver], "{options}");
    }
    assert_eq!(of("cifs", "nounix"), [Caveat::Mandatory]);
    assert_eq!(of("smb3", "posix"), [Caveat::Mandatory]);
    assert_eq!((of("cifs", "nobrl"), of("nfs4", "vers=4.2")), (vec![], vec![]));
    let nfs = Mounts::parse(b"22 21 0:30 / /mnt rw - nfs4 nas:/x rw,vers=4.2");
    let parameters = Parameters { recover_lost_locks: true };
    let assessment = assess(nfs.iter().next().unwrap(), parameters, None);
    assert_eq!(assessment.caveats, [Caveat::RecoversLost]);
}

#[test]
fn read_only_is_the_mount_or_the_file_system() {
    let read_only = |line| assess_line(line, None).read_only;
    assert!(read_only("1 0 8:1 / / ro,relatime - ext4 /dev/sda1 rw"));
    assert!(read_only("1 0 8:1 / / rw,relatime - ext4 /dev/sda1 ro"));
    assert!(!read_only("1 0 8:1 / / rw - ext4 /dev/sda1 rw,errors=remount-ro"));
}

#[test]
fn a_server_may_squash_root() {
    for (kind, expected) in [
        ("nfs4", true),
        ("ceph", true),
        ("fuse.mfs", true),
        ("ext4", false),
        ("fuse.bindfs", false),
        ("overlay", false),
    ] {
        assert_eq!(assess_options(kind, "x").may_squash_root, expected, "{kind}");
    }
}

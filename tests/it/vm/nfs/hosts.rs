//! The hosts and their server.

use crate::vm::{Network, Running, Tree, Vm, VmBuilder};

/// The exported directory.
const SHARED: &str = "/srv/shared";

/// Locks a file as virtlockd does, or says that it can't. With "hold", a child keeps the lock.
const FOREIGN_HOLDER: &str = r#"
use Fcntl;
my ($path, $hold) = @ARGV;
open my $file, '+<', $path or die "$path: $!";
my ($ours, $theirs);
pipe $ours, $theirs;
if ($hold and my $child = fork) {
    close $theirs;
    exit(<$ours> eq 'locked' ? 0 : 1);
}
# A write lock on byte 0.
my $lock = pack 's s x4 q q l x4', F_WRLCK, 0, 0, 1, 0;
fcntl $file, F_SETLK, $lock or exit 11;
exit 0 unless $hold;
print $theirs 'locked';
close $_ for $theirs, *STDIN, *STDOUT, *STDERR;
sleep;
"#;

/// How often hosts look whether their locks are there, in seconds.
pub(super) const ROUND: u32 = 10;

/// Where lock files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// The disk itself.
    Direct,
    /// In a directory beside it.
    Hashed,
}

/// A version of NFS, as `mount` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(&'static str);

/// It has no leases: a lock persists until its holder releases it, or reports that it was away.
pub(super) const V3: Version = Version("3");
pub(super) const V40: Version = Version("4.0");
/// It has attributes, in which holders are named.
pub(super) const V42: Version = Version("4.2");

/// The machines. Two hosts with the service, and the server, without.
pub(super) struct Hosts {
    pub(super) a: Vm,
    pub(super) b: Vm,
    // Dropped after its clients.
    pub(super) server: Vm,
    pub(super) _wire: Network,
    pub(super) _tree: Tree,
}

impl Version {
    /// Where hosts have by it what the server shares.
    pub(super) fn place(self) -> String {
        format!("/srv/{}", self.0)
    }

    /// A disk that is locked by no other version.
    pub(super) fn disk(self) -> String {
        format!("{}/disk-{}", self.place(), self.0)
    }
}

impl Hosts {
    /// Boots them all. A host that the server does not hear of for `lease` seconds may lose its
    /// locks, by the versions that know leases. None if this machine can't, which has been said
    /// then.
    pub(super) fn start(lease: u32) -> Option<Hosts> {
        let tree = Tree::here()?;
        let wire = Network::new(3);
        let server = VmBuilder::new("server").on(&wire).start(&tree);
        let disks = ["first", "second"].map(|name| tree.image(name, 16));
        let [a, b] = ["host-a", "host-b"].map(|name| {
            let machine = VmBuilder::new(name).on(&wire).disk(&disks[0], "VMLOCK-0001", None);
            machine.disk(&disks[1], "VMLOCK-0002", None).start(&tree)
        });
        server.booted();
        name_all(&server);
        serve(&server, lease);
        for host in [&a, &b] {
            host.booted();
            name_all(host);
            host.enable();
            host.write("/srv/foreign-holder", FOREIGN_HOLDER);
            mount(host, &[V3, V40, V42]);
        }
        Some(Hosts { a, b, server, _wire: wire, _tree: tree })
    }

    /// Configures the lock files on both hosts, on the mount of a version.
    pub(super) fn lock_by(&self, version: Version, files: Files) {
        let place = version.place();
        let files = match files {
            Files::Direct => String::new(),
            Files::Hashed => format!("file_lockspace_dir = \"{place}/files\"\n"),
        };
        self.configure(&format!(
            "{files}lvm_lockspace_dir = \"{place}/volumes\"\n\
            scsi_lockspace_dir = \"{place}/scsi\"\n"
        ));
    }

    /// Configures both so; and to look at their locks each [`ROUND`].
    pub(super) fn configure(&self, lines: &str) {
        let lines = format!("{lines}verify_interval = {ROUND}\n");
        for (host, _) in self.both_ways() {
            host.write("/etc/vmlockd/vmlockd.toml", &lines);
            host.systemctl(&["reload", "vmlockd"]);
        }
    }

    /// Each as the first, and the other as the second.
    pub(super) fn both_ways(&self) -> [(&Vm, &Vm); 2] {
        [(&self.a, &self.b), (&self.b, &self.a)]
    }
}

/// Writes the names of the others into a machine's hosts file.
fn name_all(vm: &Vm) {
    let names = ["server", "host-a", "host-b"];
    let lines =
        (0..).zip(names).map(|(number, name)| format!("{} {name}\n", Network::address(number)));
    vm.write("/etc/hosts", &format!("127.0.0.1 localhost\n{}", lines.collect::<String>()));
}

/// Serves a directory with disks and places for lock files.
fn serve(server: &Vm, lease: u32) {
    // Before the package's services are started, which start each other.
    let times = format!("[nfsd]\nthreads=4\nlease-time={lease}\ngrace-time={lease}\n");
    server.write("/etc/nfs.conf", &times);
    // Version 3 waits for locks of before, though there are none; the others know that.
    server.script(&format!(
        "mkdir -p {SHARED}
        cd {SHARED}
        mkdir -m 700 files volumes scsi
        truncate -s 1M disk-3 disk-4.0 disk-4.2
        echo '{SHARED} *(rw,sync,no_root_squash,no_subtree_check)' >/etc/exports
        echo options lockd nlm_timeout=3 nlm_grace_period=3 >/etc/modprobe.d/lockd.conf
        systemctl start rpcbind rpc-statd nfs-server"
    ));
}

/// Mounts what the server has for a host, by some versions.
pub(super) fn mount(host: &Vm, versions: &[Version]) {
    for version in versions {
        // The mount starts what older versions require besides.
        let (place, Version(version), server) = (version.place(), version, Network::address(0));
        host.script(&format!(
            "mkdir -p {place}
            mount -t nfs -o vers={version},hard {server}:{SHARED} {place}"
        ));
    }
}

/// Makes the server drop all locks of version 3, as its administrator does.
pub(super) fn clear(server: &Vm) {
    server.script(&format!("echo {SHARED} >/proc/fs/nfsd/unlock_filesystem"));
}

/// Locks a disk for the VM `name`, with these options.
pub(super) fn lock(host: &Vm, name: &str, disk: &str, options: &[&str]) {
    started(host, name, &[disk], options).ended().ok();
}

/// Starts a command that locks disks and keeps running.
pub(super) fn started<'v>(
    host: &'v Vm,
    name: &str,
    disks: &[&str],
    options: &[&str],
) -> Running<'v> {
    host.spawn(&[&["vmlockctl", "lock", "--name", name][..], options, disks].concat())
}

/// Requests a disk that is refused, and returns the message.
pub(super) fn refused(host: &Vm, disk: &str) -> String {
    let ran = host.run(&["vmlockctl", "lock", "--name", "refused", disk]);
    assert_eq!(ran.status.code(), Some(75), "{ran:?}");
    ran.stderr
}

/// Releases all locks of the VM `name`.
pub(super) fn unlock(host: &Vm, name: &str) {
    host.run(&["vmlockctl", "unlock", name]).ok();
}

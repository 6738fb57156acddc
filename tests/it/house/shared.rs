//! A real file system that two hosts share, as far as one machine can be two hosts.
//!
//! Its servers run where nobody else sees them. Each host is a mount of its own, in a mount
//! namespace of its own, at the same path as on the other: what one locks, the other learns from
//! the servers alone. A service on such a host is a process that was started inside. The test stays
//! outside and finds a host's files under another name.
//!
//! No process namespace is a host's: the kernel lets nobody lock on a FUSE mount who has no number
//! where it was mounted, and the test's services are to be numbered as they always are.

use std::{
    fs::{self, File, Permissions},
    io::{Read as _, Seek as _},
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use super::{DEADLINE, Process, pidfd, process::mortal, user, within};

/// What it takes. All of it is one file system's: the packages that are missing come together.
const PROGRAMS: [&str; 4] =
    ["/usr/sbin/mfsmaster", "/usr/sbin/mfschunkserver", "/usr/bin/mfsmount", "/dev/fuse"];

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/house/moosefs");

/// A shared file system and two hosts that have it mounted. Declare it after what runs on them, in
/// a structure, so that it goes last.
pub(crate) struct Shared {
    // The mounts go before the servers, or their end would wait for an answer.
    hosts: [Side; 2],
    servers: Process,
    dir: TempDir,
}

/// One of the hosts.
pub(crate) struct Side {
    /// What has it mounted. Whoever enters its namespaces is on the host.
    mount: Process,
    /// Where.
    at: PathBuf,
}

impl Shared {
    /// Starts the servers and mounts the file system twice; the reason, where this machine can't.
    pub(crate) async fn start() -> Result<Shared, String> {
        Self::start_with(&[]).await
    }

    /// Does the same with further arguments of `mfsmount(8)` for both mounts.
    pub(crate) async fn start_with(arguments: &[&str]) -> Result<Shared, String> {
        if let Some(missing) = PROGRAMS.iter().find(|program| !Path::new(program).exists()) {
            return Err(format!("there is no {missing} here"));
        }
        let dir = tempfile::Builder::new().prefix("vmlockd-shared-").tempdir();
        let dir = dir.expect("a temporary directory");
        // The umask may have taken bits away.
        let open = Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), open.clone()).expect("it is ours");
        let [data, at] = ["data", "shared"].map(|name| {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("a directory in ours");
            path
        });

        let mut command = mortal(None, "unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
        command.args(["--", SCRIPT, "serve"]).arg(data).stdout(Stdio::piped());
        let log = dir.path().join("servers.log");
        let servers = Process::start("moosefs", command, &log);
        within("the servers start", servers.says_something()).await;
        let mount = async |name| {
            let log = dir.path().join(format!("{name}.log"));
            Side::mount(name, &at, &servers, &log, arguments).await
        };
        let first = mount("host-a").await;
        // Of a new file system the root is everybody's. A host may remember that for a while.
        fs::set_permissions(first.at(&at), open).expect("it is ours");
        let hosts = [first, mount("host-b").await];
        Ok(Shared { hosts, servers, dir })
    }

    /// The hosts: host-a and host-b.
    pub(crate) fn hosts(&self) -> &[Side; 2] {
        &self.hosts
    }

    /// The processes that all of it is. None but these are on its network.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let network = network(self.servers.pid()).expect("the servers are there");
        let entries = fs::read_dir("/proc").expect("there are processes").flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.filter(|pid| self::network(*pid).as_ref() == Some(&network)).collect()
    }

    /// The path of the file system on both hosts. Elsewhere there is an empty directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    /// A disk of root's; its path on the hosts comes back.
    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        let outside = self.hosts[0].at(&path);
        let file = File::create_new(&outside).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        file.set_len(1 << 20).expect("a sparse file");
        fs::set_permissions(&outside, Permissions::from_mode(0o600)).expect("the disk is ours");
        path
    }
}

impl Side {
    async fn mount(
        name: &str,
        at: &Path,
        servers: &Process,
        log: &Path,
        arguments: &[&str],
    ) -> Side {
        let mut command = mortal(None, "nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", servers.pid()));
        command.args(["--", "unshare", "--mount", "--uts", "--", SCRIPT, "mount"]);
        command.arg(at).arg(name).args(arguments).stdout(Stdio::piped());
        let mount = Process::start(name, command, log);
        within("a host starts", mount.says_something()).await;
        let (pid, path) = (mount.pid(), at.to_owned());
        let mounted = user::in_thread(user::ROOT, move || mounted(pid, &path)).await;
        assert!(mounted, "{name} mounts nothing: {}", mount.stderr());
        Side { mount, at: at.to_owned() }
    }

    /// Where this process finds what is at `path` on the host.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let below = path.as_ref().strip_prefix("/").expect("an absolute path");
        Path::new(&format!("/proc/{}/root", self.mount.pid())).join(below)
    }

    /// The words that go before a command which is to run on the host.
    pub(crate) fn inside(&self) -> Vec<String> {
        let namespaces = format!("/proc/{}/ns", self.mount.pid());
        ["nsenter".to_owned(), format!("--mount={namespaces}/mnt")]
            .into_iter()
            .chain([format!("--uts={namespaces}/uts"), "--".to_owned()])
            .collect()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // What serves it looks at its own mount at first: killed in the middle of that, it would wait
        // for itself for ever. Nobody waits for one that was unmounted by force.
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.mount.pid());
        let mut unmount = std::process::Command::new("nsenter");
        let _ = unmount.arg(namespace).args(["umount", "-f", "-i"]).arg(&self.at).output();
    }
}

/// The network that a process is on; none when it has gone.
fn network(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// Waits until the file system is mounted at `path` for a process; whether it is, or that has ended.
fn mounted(pid: u32, path: &Path) -> bool {
    let mut table = File::open(format!("/proc/{pid}/mounts")).expect("a mount table");
    let end = pidfd(pid);
    let wanted = format!(" {} fuse", path.display());
    let timeout = PollTimeout::try_from(DEADLINE).expect("a short time");
    loop {
        let mut now = String::new();
        table.rewind().and_then(|()| table.read_to_string(&mut now)).expect("it can be read");
        if now.contains(&wanted) {
            return true;
        }
        // The kernel calls it a priority event that something was mounted.
        let mut events = [
            PollFd::new(table.as_fd(), PollFlags::POLLPRI),
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut events, timeout) == Ok(0) || events[1].any() == Some(true) {
            return false;
        }
    }
}

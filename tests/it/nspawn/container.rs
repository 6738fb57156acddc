//! The container that a host is.

use std::{
    fs,
    os::{linux::net::SocketAddrExt, unix::net::SocketAddr},
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::net::UnixDatagram;

use crate::fixture::{Process, program, within};

/// How the script that boots a host says that this machine can't.
const NOT_HERE: i32 = 77;
/// And that what is built here does not run on the tree.
const NOT_THERE: i32 = 78;

/// Why there is no container.
#[derive(Debug)]
pub(super) enum Failure {
    /// This machine lacks what it takes.
    NotHere(String),
    /// The tree is too old for what is built on this machine.
    NotThere(String),
    /// Anything else: something is wrong.
    Broken(String),
}

/// A copy of a tree that runs. It is gone without a trace when it is dropped, or this binary ends.
pub(super) struct Container {
    /// The script. It removes all that there is, process, mount and control group, when its
    /// standard input ends.
    process: Process,
    leader: u32,
    cgroup: PathBuf,
}

impl Container {
    /// Boots a copy of `tree`; its systemd has started all that it starts when this returns.
    ///
    /// `dir` is for what is written down. Of `shared` no copy is made.
    pub(super) async fn boot(
        tree: &Path,
        dir: &Path,
        shared: Option<&Path>,
    ) -> Result<Container, Failure> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vmlockd-{}-{number}", process::id());
        let here = own_cgroup().ok_or("no control groups of version 2 are mounted here");
        let cgroup = here.map_err(|e| Failure::NotHere(e.to_owned()))?.join(&name);
        // Abstract: it has to be reached from another mount namespace, and nothing stays behind.
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let news = std::os::unix::net::UnixDatagram::bind_addr(&address).expect("a name of ours");
        news.set_nonblocking(true).expect("a socket can be waited for");
        let news = UnixDatagram::from_std(news).expect("a socket can be waited for");

        // In a session of its own: what is sent to a terminal's processes, or to a test runner's,
        // must not keep it from clearing away.
        let mut command = Command::new("setsid");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/nspawn/boot");
        let root = dir.join("tree");
        fs::create_dir(&root).expect("a directory in ours");
        command.args([script, "keep"]).args([&root, &cgroup, tree]);
        command.arg(program("vmlockd").parent().expect("programs are in a directory"));
        command.args(shared);
        command.env("NOTIFY_SOCKET", format!("@{name}"));
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let log = dir.join("console");
        let process = Process::start(&format!("host {name}"), command, &log);
        let mut container = Container { process, leader: 0, cgroup };
        let booted = async {
            tokio::select! {
                () = ready(&news) => None,
                status = container.process.ended() => Some(status),
            }
        };
        if let Some(status) = within("a host boots", booted).await {
            return Err(failure(status, container.process.stderr()));
        }
        container.leader = container.find_leader();
        Ok(container)
    }

    /// Its process 1, as it is numbered here.
    pub(super) fn leader(&self) -> u32 {
        self.leader
    }

    /// The control group of a unit.
    pub(super) fn control_group(&self, unit: &str) -> PathBuf {
        self.cgroup.join("payload").join(unit)
    }

    /// The processes of a unit, as they are numbered here and in there.
    pub(super) fn processes(&self, unit: &str) -> Vec<(u32, u32)> {
        let file = self.cgroup.join("payload").join(unit).join("cgroup.procs");
        let list = fs::read_to_string(&file).unwrap_or_default();
        let numbers = list.lines().filter_map(|line| line.parse().ok());
        numbers.filter_map(|outside| Some((outside, inside(outside)?))).collect()
    }

    /// The units of a slice that have processes.
    pub(super) fn units(&self, slice: &str) -> Vec<String> {
        let folder = self.cgroup.join("payload").join(slice);
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.contains('@')).map(|name| format!("{slice}/{name}")).collect()
    }

    fn find_leader(&self) -> u32 {
        let first = self.processes("init.scope").into_iter().find(|(_, inside)| *inside == 1);
        first.expect("a host that has booted has a process 1").0
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.process.stdin());
        self.process.end();
    }
}

/// Waits until the container's systemd has said that it is ready.
async fn ready(news: &UnixDatagram) {
    let mut said = [0; 4096];
    loop {
        let length = news.recv(&mut said).await.expect("a bound socket receives");
        if said[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return;
        }
    }
}

fn failure(status: ExitStatus, said: String) -> Failure {
    match status.code() {
        Some(NOT_HERE) => Failure::NotHere(said),
        Some(NOT_THERE) => Failure::NotThere(said),
        _ => Failure::Broken(format!("{status}: {said}")),
    }
}

/// The control group of this process, in the hierarchy of version 2, as a directory.
fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (root, mounted) = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(3);
        kind.starts_with("cgroup2 ").then_some((words.next()?, words.next()?))
    })?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    // Elsewhere than below what is mounted, it can't be named.
    let below = Path::new(own).strip_prefix(root).ok()?;
    Some(Path::new(mounted).join(below))
}

/// The number that a process has in its innermost process namespace.
fn inside(outside: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{outside}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().next_back()?.parse().ok()
}

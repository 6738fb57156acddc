//! The file tree that a host is a copy of.

use std::{
    fmt, fs,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, task::spawn_blocking, time::timeout};

/// The packages of a release's tree in addition to the essential ones, as on a usual host.
const PACKAGES: [&str; 5] = ["systemd", "dbus", "polkitd", "libpam-systemd", "bindfs"];

/// A tree is made of some sixty packages that come over the network.
const DEADLINE: Duration = Duration::from_secs(600);

/// The file system of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// The tree of this host, with all its installed packages.
    Own,
    /// A small one of a Debian release, made when it is wanted first and kept with what cargo
    /// builds.
    Release(&'static str),
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tree::Own => f.write_str("this machine's own tree"),
            Tree::Release(name) => write!(f, "a tree of Debian {name}"),
        }
    }
}

impl Tree {
    /// Where it is. An error says why there can't be any.
    pub(super) async fn path(self) -> Result<PathBuf, String> {
        match self {
            Tree::Own => Ok("/".into()),
            Tree::Release(name) => made(name).await,
        }
    }
}

/// The beginning of a command that makes a tree. It ends with the test, and what it mounts for its own
/// use is not met by who removes what it left unfinished.
pub(crate) fn apart() -> std::process::Command {
    let mut command = std::process::Command::new("setpriv");
    command.args(["--pdeathsig=KILL", "--", "unshare", "--mount", "--propagation=private"]);
    command.args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]);
    command
}

/// Returns a release's tree, which one test makes while the others wait.
async fn made(release: &str) -> Result<PathBuf, String> {
    let trees = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trees");
    // By another list of packages it would be another tree.
    let name = format!("{release}+{}", PACKAGES.join("+"));
    let (tree, part) = (trees.join(&name), trees.join(format!("{name}.part")));
    if tree.is_dir() {
        return Ok(tree);
    }
    fs::create_dir_all(&trees).expect("a directory among what cargo builds");
    let turn = File::create(trees.join(format!("{name}.lock"))).expect("a file beside the tree");
    let waited = timeout(DEADLINE, spawn_blocking(move || turn.lock().map(|()| turn))).await;
    let _turn = waited.expect("a tree is made in time").unwrap().expect("a lock can be waited for");
    if tree.is_dir() {
        return Ok(tree);
    }
    // An incomplete tree of a killed process.
    let _ = fs::remove_dir_all(&part);
    let mut command = Command::from(apart());
    command.args(["mmdebstrap", "--quiet", "--variant=minbase"]);
    command.arg(format!("--include={}", PACKAGES.join(","))).arg(release).arg(&part);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await.expect("a tree is made in time");
    let output = output.expect("setpriv can be run");
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("there can't be a tree of Debian {release}: {}", said.trim()));
    }
    fs::rename(&part, &tree).expect("a tree can be given its name");
    Ok(tree)
}

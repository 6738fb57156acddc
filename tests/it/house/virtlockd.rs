//! virtlockd itself: what it says is what its clients depend on.

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
};

use super::{Process, process::mortal, rpc::Rpc};

/// Where distributions have it; it need not be in `PATH`.
const PLACES: [&str; 3] = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"];

/// Puts the test's directory where it has its own files, and it where it takes over a socket that
/// is open already. The shell becomes the program, so process number and watch stay.
const START: &str = r#"
    mount --bind "$1" /run
    exec 3<&0 </dev/null
    export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=virtlockd.socket
    exec "$2" --config "$3"
"#;

/// A virtlockd of the test's own, in a mount namespace where `/run` is a directory of the test's.
pub(crate) struct Virtlockd {
    process: Process,
    socket: PathBuf,
    folder: PathBuf,
}

impl Virtlockd {
    /// The program, if it is installed.
    pub(crate) fn program() -> Option<PathBuf> {
        PLACES
            .map(|place| Path::new(place).join("virtlockd"))
            .into_iter()
            .find(|path| path.exists())
    }

    /// Starts it with its files in `dir`, which is made, and these lines in its configuration.
    ///
    /// Its socket is open when this returns: a client that is too early waits.
    pub(crate) fn start(program: &Path, dir: &Path, config: &str) -> Virtlockd {
        let (run, folder) = (dir.join("run"), dir.join("folder"));
        for made in [&run.join("libvirt"), &folder] {
            fs::create_dir_all(made).unwrap_or_else(|e| panic!("{}: {e}", made.display()));
        }
        let lines = dir.join("virtlockd.conf");
        fs::write(&lines, config).expect("a file in our directory");
        let socket = run.join("libvirt/virtlockd-sock");
        let listener = UnixListener::bind(&socket).expect("a socket in our directory");
        let mut command = mortal(None, "unshare");
        command.args(["--mount", "--propagation=private", "--", "sh", "-euc", START, "virtlockd"]);
        command.args([run.as_path(), program, &lines]).current_dir(&folder);
        command.stdin(OwnedFd::from(listener));
        for key in ["NOTIFY_SOCKET", "LIBVIRT_DEBUG", "LIBVIRT_LOG_OUTPUTS"] {
            command.env_remove(key);
        }
        let process = Process::start("virtlockd", command, &dir.join("virtlockd.log"));
        Virtlockd { process, socket, folder }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its working directory, from which relative names lead.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Rpc {
        Rpc::connect(&self.socket).expect("its socket is open")
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }
}

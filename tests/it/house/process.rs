//! Processes that live exactly as long as the fixture that started them.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, mpsc},
    thread,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tokio::net::unix::pipe;

use super::{
    DEADLINE,
    user::{self, Account},
};

/// A running program. Dropping it kills it and waits until it is gone.
pub(crate) struct Process {
    what: String,
    pid: Pid,
    child: Mutex<Child>,
    /// Turns readable when the process ends.
    pidfd: OwnedFd,
    stderr: PathBuf,
}

impl Process {
    /// Starts a program whose standard error goes to the end of the file `stderr`.
    pub(crate) fn start(what: &str, mut command: Command, stderr: &Path) -> Process {
        let errors = File::options()
            .create(true)
            .append(true)
            .open(stderr)
            .unwrap_or_else(|e| panic!("{}: {e}", stderr.display()));
        command.stderr(errors);
        let child = spawn(command).unwrap_or_else(|e| panic!("{what}: {e}"));
        let pid = Pid::from_raw(child.id().cast_signed());
        let pidfd = pidfd(child.id());
        let (what, stderr) = (what.to_owned(), stderr.to_owned());
        Process { what, pid, child: Mutex::new(child), pidfd, stderr }
    }

    /// The process number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Takes the standard output, if the command asked for a pipe.
    pub(crate) fn stdout(&self) -> Option<std::process::ChildStdout> {
        self.child.lock().unwrap().stdout.take()
    }

    /// Takes the standard input, if the command asked for a pipe.
    pub(crate) fn stdin(&self) -> Option<std::process::ChildStdin> {
        self.child.lock().unwrap().stdin.take()
    }

    /// Waits for the first word on its standard output, for which the command has a pipe.
    pub(crate) async fn says_something(&self) {
        let mut stdout = self.stdout().expect("a pipe was asked for");
        // The end of file means that it never will.
        let said = user::in_thread(user::ROOT, move || stdout.read(&mut [0])).await;
        assert!(said.is_ok_and(|n| n == 1), "{} does not start: {}", self.what, self.stderr());
    }

    /// What it has written to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        let bytes = fs::read(&self.stderr).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends a signal, unless the process has ended and its number may be another's by now.
    pub(crate) fn signal(&self, signal: Signal) {
        let mut child = self.child.lock().unwrap();
        if matches!(child.try_wait(), Ok(None)) {
            kill(self.pid, signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.what));
        }
    }

    /// Waits until it ends.
    pub(crate) async fn ended(&self) -> ExitStatus {
        gone(self.pidfd.try_clone().expect("a descriptor is free")).await;
        self.child.lock().unwrap().wait().expect("a child can be waited for")
    }

    /// The same where nothing else can be done meanwhile, and not for ever.
    pub(crate) fn end(&self) {
        let timeout = PollTimeout::try_from(DEADLINE).expect("a short time");
        let mut event = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let ended = poll(&mut event, timeout).is_ok_and(|events| events == 1);
        assert!(ended || thread::panicking(), "{} does not end", self.what);
    }

    /// Whether it is still there.
    pub(crate) fn lives(&self) -> bool {
        matches!(self.child.lock().unwrap().try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test that failed may have left the mutex poisoned; the process has to go all the same.
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let early = child.try_wait().ok().flatten();
        let _ = child.kill();
        let _ = child.wait();
        if thread::panicking() {
            let errors = self.stderr();
            let end = match early {
                Some(status) => format!(" (had ended: {status})"),
                None => String::new(),
            };
            if !errors.is_empty() || early.is_some() {
                eprintln!("---- {}{end}, standard error:\n{errors}----", self.what);
            }
        }
    }
}

/// Ends, when dropped, whatever names this path on its command line.
///
/// For processes that are nobody's here: what the bus has started, and what the service has.
#[derive(Debug)]
pub(crate) struct Strays(pub(crate) PathBuf);

impl Drop for Strays {
    fn drop(&mut self) {
        let path = self.0.as_os_str().as_encoded_bytes();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for dir in processes.map(|entry| entry.path()) {
            let line = fs::read(dir.join("cmdline")).unwrap_or_default();
            let pid = dir.file_name().and_then(|name| name.to_str()?.parse().ok());
            if let (Some(pid), true) = (pid, line.windows(path.len()).any(|part| part == path)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// The beginning of a command that dies with this test binary, whatever happens to it.
///
/// `Drop` does not run in a binary that is killed. The kernel can take care of that, and setpriv
/// asks it to; doing so between fork and exec ourselves would need unsafe code. The process number
/// stays the same, for setpriv executes the program in its own place.
pub(crate) fn mortal(account: Option<&Account>, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(account) = account {
        command.arg(format!("--reuid={}", account.uid));
        command.arg(format!("--regid={}", account.gid));
        command.arg("--clear-groups");
    }
    command.args(["--pdeathsig=KILL", "--"]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// A descriptor of a process that is there, or has at least not been waited for.
pub(crate) fn pidfd(pid: u32) -> OwnedFd {
    let number = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process number");
    rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())
        .unwrap_or_else(|errno| panic!("process {pid}: {errno}"))
}

/// Waits until the process behind a descriptor has ended, and all its threads.
pub(crate) async fn gone(pidfd: OwnedFd) {
    // Not a pipe, but tokio has no other safe type that only waits for a descriptor.
    let event = pipe::Receiver::from_owned_fd_unchecked(pidfd).expect("epoll takes a pidfd");
    event.readable().await.expect("a pidfd can be waited for");
}

type Job = Box<dyn FnOnce() + Send>;

/// Starts a process from a thread that lives as long as this binary.
///
/// The kernel's "kill it when the parent dies" means the parent *thread*, and a child inherits the
/// credentials of the thread that starts it. A test's threads come and go, and [`super::user`]
/// gives some of them other credentials, so none of them may be that parent.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    static PARENT: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
        assert!(geteuid().is_root(), "these tests need to run as root");
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::spawn(move || inbox.iter().for_each(|job| job()));
        jobs
    });
    let program = command.get_program().to_owned();
    let (answer, outcome) = mpsc::channel();
    let job = move || answer.send(command.spawn()).unwrap_or_default();
    PARENT.send(Box::new(job)).expect("the parent thread lives");
    outcome.recv().expect("the parent thread answers").map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("can't start {}: {e}{}", program.display(), advice(&program)),
        )
    })
}

/// Which package a missing program comes from.
fn advice(program: &std::ffi::OsStr) -> &'static str {
    match program.to_str() {
        Some("setpriv" | "unshare") => " (install util-linux)",
        Some("dbus-daemon") => " (install dbus-daemon)",
        Some("dbus-broker-launch") => " (install dbus-broker)",
        Some("busctl") => " (install systemd)",
        Some("gdbus") => " (install libglib2.0-bin)",
        Some("chattr") => " (install e2fsprogs)",
        Some("perl") => " (install perl)",
        Some("qemu-img") => " (install qemu-utils)",
        _ => "",
    }
}

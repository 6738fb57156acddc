//! The service under test, as a process.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;

use super::{
    Bus, NameWatch, Process,
    process::mortal,
    program,
    user::{Account, ROOT},
    within,
};

/// How the service is started: all that it takes to start it again.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The program.
    pub(crate) program: PathBuf,
    /// The words before it, of a program that executes it elsewhere: on a host of its own.
    pub(crate) inside: Vec<String>,
    /// Whose per-user instance it is; none for the system's.
    pub(crate) session_of: Option<u32>,
    pub(crate) config: PathBuf,
    pub(crate) runtime_dir: PathBuf,
    /// Where standard error goes.
    pub(crate) log: PathBuf,
    /// Further arguments.
    pub(crate) args: Vec<String>,
    /// Further environment.
    pub(crate) env: Vec<(String, String)>,
}

impl Launch {
    /// With everything below one directory.
    pub(crate) fn below(dir: &Path) -> Launch {
        Launch {
            program: program("vmlockd"),
            inside: Vec::new(),
            session_of: None,
            config: dir.join("vmlockd.toml"),
            runtime_dir: dir.join("run"),
            log: dir.join("vmlockd.log"),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// The words after the program's name.
    pub(crate) fn words(&self) -> Vec<String> {
        let scope = if self.session_of.is_some() { "--session" } else { "--system" };
        let mut words = vec![scope.to_owned(), "--config".to_owned()];
        words.push(self.config.display().to_string());
        words.extend(["--runtime-dir".to_owned(), self.runtime_dir.display().to_string()]);
        words.extend(self.args.iter().cloned());
        words
    }

    /// A line for a D-Bus service file.
    pub(crate) fn exec_line(&self) -> String {
        let words = self.words().join(" ");
        format!("{} {words}", self.program.display())
    }

    /// The command that starts it, which dies with this binary.
    pub(crate) fn command(&self, bus: &Bus) -> Command {
        let account = self.session_of.filter(|uid| *uid != ROOT).map(Account::of);
        let mut line = self.inside.iter().map(OsStr::new).chain([self.program.as_os_str()]);
        let mut command = mortal(account.as_ref(), line.next().expect("a program"));
        command.args(line).args(self.words());
        // The machine's own bus, service manager and user must not be met by accident.
        for key in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "RUST_LOG"] {
            command.env_remove(key);
        }
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent");
        command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent");
        command.env("XDG_RUNTIME_DIR", &self.runtime_dir);
        // What is named must not depend on how busy this machine is.
        command.env("VMLOCKD_INSPECTOR_MS", "10000");
        command.env("HOME", &self.runtime_dir).env_remove("XDG_CONFIG_HOME");
        let scope = if self.session_of.is_some() { "SESSION" } else { "SYSTEM" };
        command.env(format!("DBUS_{scope}_BUS_ADDRESS"), bus.address());
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// The service ended instead of coming up.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

/// A running service.
pub(crate) struct Daemon {
    bus: Arc<Bus>,
    launch: Launch,
    process: Mutex<Arc<Process>>,
}

impl Daemon {
    /// Starts the service and waits until it owns its name.
    pub(crate) async fn start(bus: &Arc<Bus>, launch: Launch) -> Daemon {
        Daemon::try_start(bus, launch).await.unwrap_or_else(|f| {
            panic!("vmlockd does not start ({}); it says:\n{}", f.status, f.stderr)
        })
    }

    /// The same, where it may end instead.
    pub(crate) async fn try_start(bus: &Arc<Bus>, launch: Launch) -> Result<Daemon, Failure> {
        let process = come_up(bus, &launch).await?;
        Ok(Daemon { bus: bus.clone(), launch, process: Mutex::new(process) })
    }

    /// Starts it again in the same place, after it has ended.
    pub(crate) async fn start_again(&self) {
        self.try_start_again().await.unwrap_or_else(|f| {
            panic!("vmlockd does not start again ({}); it says:\n{}", f.status, f.stderr)
        });
    }

    /// The same, where it may end instead.
    pub(crate) async fn try_start_again(&self) -> Result<(), Failure> {
        assert!(!self.process().lives(), "the service still runs");
        let process = come_up(&self.bus, &self.launch).await?;
        *self.process.lock().unwrap() = process;
        Ok(())
    }

    /// The process number.
    pub(crate) fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Kills it without giving it a chance; afterwards its name is free.
    pub(crate) async fn kill9(&self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Asks it to end and waits until it has; afterwards its name is free.
    pub(crate) async fn terminate(&self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until it has ended and the bus knows.
    ///
    /// The bus learns of it a moment after we do. A successor that is faster than that would be
    /// refused the name.
    pub(crate) async fn ended(&self) -> ExitStatus {
        let process = self.process();
        let status = within("the service ends", process.ended()).await;
        if let Ok(connection) =
            self.bus.try_connection_as(self.launch.session_of.unwrap_or(ROOT)).await
        {
            NameWatch::new(&connection, super::NAME).await.not_owned_by(process.pid()).await;
        }
        status
    }

    /// What it has written to standard error, in all its lives.
    pub(crate) fn stderr(&self) -> String {
        self.process().stderr()
    }

    /// Waits until it has written this to standard error. A change may be seen before it is logged.
    pub(crate) async fn logs(&self, words: &str) {
        let logged = async {
            while !self.stderr().contains(words) {
                tokio::task::yield_now().await;
            }
        };
        within(words, logged).await;
    }

    /// How many descriptors it has open, but for those of inspectors: their socket, their pidfd and
    /// the file in memory in which they write where they are.
    pub(crate) fn open_fds(&self) -> usize {
        let targets = self.fd_targets();
        targets.len() - 3 * targets.iter().filter(|target| is_inspectors(target)).count()
    }

    /// What its descriptors refer to.
    pub(crate) fn fd_targets(&self) -> Vec<String> {
        let targets = targets(self.pid());
        assert!(!targets.is_empty(), "process {} is gone", self.pid());
        targets
    }

    /// Whether it runs.
    pub(crate) fn lives(&self) -> bool {
        self.process().lives()
    }

    /// How it is started.
    pub(crate) fn launch(&self) -> &Launch {
        &self.launch
    }

    fn process(&self) -> Arc<Process> {
        self.process.lock().unwrap().clone()
    }
}

/// What the descriptors of a process refer to.
fn targets(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    // One that is closed while we look is no longer open.
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.map(|target| target.display().to_string()).collect()
}

/// Whether this is the file in which an inspector writes where it is.
fn is_inspectors(target: &str) -> bool {
    target.contains("memfd:position")
}

async fn come_up(bus: &Bus, launch: &Launch) -> Result<Arc<Process>, Failure> {
    let mut watch = bus.watch().await;
    let process = Process::start("vmlockd", launch.command(bus), &launch.log);
    tokio::select! {
        () = watch.owned_by(process.pid()) => {
            // Its first inspector is on its way, and would change how many descriptors it has.
            while process.lives() && !targets(process.pid()).iter().any(|target| is_inspectors(target)) {
                tokio::task::yield_now().await;
            }
            Ok(Arc::new(process))
        }
        status = process.ended() => Err(Failure { status, stderr: process.stderr() }),
    }
}

//! A whole house: bus, polkit and service in one temporary directory.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::process::Command;
use zbus::Connection;

use super::{
    Bus, Daemon, Failure, Launch, NAME, Ran, Service, polkit,
    process::Strays,
    program, run,
    user::{Account, ROOT},
};

/// Which program is the system bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Broker {
    #[default]
    DbusDaemon,
    DbusBroker,
}

/// Who starts the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Start {
    /// The house, before the test begins.
    #[default]
    House,
    /// The bus, at the first call.
    Bus,
    /// The test, if anybody.
    Nobody,
}

/// What a house should be like.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Builder {
    broker: Broker,
    session_of: Option<u32>,
    polkit: polkit::Choice,
    config: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    start: Start,
    folders: Vec<String>,
}

impl Builder {
    /// A directory of root's own in the house, made before the service starts.
    pub(crate) fn folder(mut self, name: &str) -> Builder {
        self.folders.push(name.to_owned());
        self
    }

    /// Which system bus; dbus-daemon unless said otherwise.
    pub(crate) fn broker(mut self, broker: Broker) -> Builder {
        self.broker = broker;
        self
    }

    /// The per-user instance on the session bus of `uid`, instead of the system's.
    pub(crate) fn session_of(mut self, uid: u32) -> Builder {
        self.session_of = Some(uid);
        self
    }

    /// Which polkit; none unless said otherwise.
    pub(crate) fn polkit(mut self, choice: polkit::Choice) -> Builder {
        self.polkit = choice;
        self
    }

    /// The service's configuration, where `@DIR@` stands for the house's directory.
    pub(crate) fn config(mut self, toml: &str) -> Builder {
        toml.clone_into(&mut self.config);
        self
    }

    /// A further argument for the service.
    pub(crate) fn arg(mut self, arg: &str) -> Builder {
        self.args.push(arg.to_owned());
        self
    }

    /// A further environment variable for the service.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Builder {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Leaves it to the bus (a dbus-daemon) to start the service when it is called.
    pub(crate) fn started_by_bus(mut self) -> Builder {
        self.start = Start::Bus;
        self
    }

    /// Leaves the service to the test.
    pub(crate) fn without_daemon(mut self) -> Builder {
        self.start = Start::Nobody;
        self
    }

    /// Builds the house; everything in it is ready afterwards.
    pub(crate) async fn start(self) -> House {
        self.try_start().await.unwrap_or_else(|f| {
            panic!("vmlockd does not start ({}); it says:\n{}", f.status, f.stderr)
        })
    }

    /// Builds the house, where the service may refuse to come up.
    pub(crate) async fn try_start(self) -> Result<House, Failure> {
        assert!(
            self.start != Start::Bus || self.broker == Broker::DbusDaemon,
            "dbus-broker has services started by systemd, which is not here"
        );
        let dir = open_directory();
        let path = dir.path();
        for folder in &self.folders {
            fs::create_dir(path.join(folder)).expect("a directory can be made");
            let only_root = Permissions::from_mode(0o700);
            fs::set_permissions(path.join(folder), only_root).expect("its mode can be set");
        }
        let launch = Launch {
            session_of: self.session_of,
            args: self.args,
            env: self.env,
            ..Launch::below(path)
        };
        let config = self.config.replace("@DIR@", &path.display().to_string());
        fs::write(&launch.config, config).expect("a file in our directory");
        fs::create_dir(&launch.runtime_dir).expect("a directory in ours");
        let account = Account::of(self.session_of.unwrap_or(ROOT));
        give(&launch.runtime_dir, account);

        let service = Service { name: NAME.to_owned(), exec: launch.exec_line() };
        let services = if self.start == Start::Bus { vec![service] } else { Vec::new() };
        let bus_dir = path.join("bus");
        let bus = match (self.session_of, self.broker) {
            (Some(uid), _) => Bus::session(&bus_dir, uid).await,
            (None, Broker::DbusDaemon) => Bus::system(&bus_dir, &services).await,
            (None, Broker::DbusBroker) => Bus::broker(&bus_dir).await,
        };
        let choice = match self.polkit {
            polkit::Choice::Real { rules } => {
                let rules = rules.replace("@DIR@", &path.display().to_string());
                polkit::Choice::Real { rules }
            }
            choice => choice,
        };
        let polkit = polkit::Polkit::start(choice, &bus, &path.join("polkit")).await;
        let daemon = match self.start {
            Start::House => Some(Daemon::try_start(&bus, launch.clone()).await?),
            Start::Bus | Start::Nobody => None,
        };
        let strays = Strays(launch.runtime_dir.clone());
        Ok(House { daemon, polkit, bus, launch, _strays: strays, dir })
    }
}

/// Everything that a test of the service needs. It is gone without a trace when it is dropped.
pub(crate) struct House {
    // In this order: the service goes first, the directory last.
    daemon: Option<Daemon>,
    polkit: polkit::Polkit,
    bus: Arc<Bus>,
    launch: Launch,
    _strays: Strays,
    dir: TempDir,
}

impl House {
    /// A house with dbus-daemon, no polkit, an empty configuration and the service running.
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// The house's directory, which every user can reach.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The service that the house has started.
    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("this house has started no service itself")
    }

    /// How this house starts the service, for one that the test starts.
    pub(crate) fn launch(&self) -> Launch {
        self.launch.clone()
    }

    /// The bus.
    pub(crate) fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// The polkit of the house.
    pub(crate) fn polkit(&self) -> &polkit::Polkit {
        &self.polkit
    }

    /// The bus address.
    pub(crate) fn address(&self) -> String {
        self.bus.address()
    }

    /// A new connection as root, or on a session bus as the user it belongs to.
    pub(crate) async fn connection(&self) -> Connection {
        self.bus.connection().await
    }

    /// A new connection to the service's private socket, as root.
    pub(crate) async fn private_connection(&self) -> Connection {
        let socket = self.launch.runtime_dir.join("private");
        vmlockd::client::connect_private(&socket).await.unwrap_or_else(|e| panic!("{e}"))
    }

    /// A new connection as another user.
    pub(crate) async fn connection_as(&self, uid: u32) -> Connection {
        self.bus.connection_as(uid).await
    }

    /// A disk image of root's.
    pub(crate) async fn image(&self, name: &str) -> PathBuf {
        self.image_of(ROOT, name).await
    }

    /// A disk image that only the user `uid` can read and write.
    pub(crate) async fn image_of(&self, uid: u32, name: &str) -> PathBuf {
        let path = self.dir().join(name);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1M");
        run(command).await.ok();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the image is ours");
        give(&path, Account::of(uid));
        path
    }

    /// A disk without a format: for tests where nobody looks into it, and quicker to make.
    pub(crate) fn raw_of(&self, uid: u32, name: &str) -> PathBuf {
        let path = self.dir().join(name);
        let file = File::create_new(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        file.set_len(1 << 20).expect("a sparse file");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the image is ours");
        give(&path, Account::of(uid));
        path
    }

    /// Replaces the service's configuration file; the service has to be told.
    pub(crate) fn configure(&self, toml: &str) {
        let config = toml.replace("@DIR@", &self.dir().display().to_string());
        fs::write(&self.launch.config, config).expect("a file in our directory");
    }

    /// A command that finds this house's bus: one of ours, or one that is installed.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        let (system, session) = ("DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS");
        let (ours, other) =
            if self.launch.session_of.is_some() { (session, system) } else { (system, session) };
        command.env(ours, self.address()).env(other, "unix:path=/nonexistent");
        command
            .env("XDG_RUNTIME_DIR", &self.launch.runtime_dir)
            .env("HOME", &self.launch.runtime_dir)
            .env_remove("XDG_CONFIG_HOME");
        // What it prints must depend neither on the language nor on a terminal.
        command.env("LC_ALL", "C.UTF-8").env("NO_COLOR", "1").env("SYSTEMD_COLORS", "0");
        command.env("SYSTEMD_PAGER", "").env_remove("NOTIFY_SOCKET");
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        command
    }

    /// The same, run by another user.
    pub(crate) fn command_as(&self, uid: u32, name: &str) -> Command {
        let Account { uid, gid } = Account::of(uid);
        let mut command = self.command(name);
        // Setting the user also empties the list of further groups.
        command.uid(uid).gid(gid).current_dir(self.dir());
        command
    }

    /// Runs a command with these arguments to its end.
    pub(crate) async fn run<S: AsRef<OsStr>>(&self, name: &str, args: &[S]) -> Ran {
        let mut command = self.command(name);
        command.args(args);
        run(command).await
    }

    /// The same, run by another user.
    pub(crate) async fn run_as<S: AsRef<OsStr>>(&self, uid: u32, name: &str, args: &[S]) -> Ran {
        let mut command = self.command_as(uid, name);
        command.args(args);
        run(command).await
    }
}

/// A temporary directory that other users can pass through.
fn open_directory() -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix("vmlockd-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .expect("a temporary directory");
    // The umask may have taken bits away.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("the directory is ours");
    for above in dir.path().ancestors() {
        let mode = fs::metadata(above).expect("a directory above ours").mode();
        let all = mode & 0o001 != 0;
        assert!(all, "{} is closed to other users: set TMPDIR elsewhere", above.display());
    }
    dir
}

fn give(path: &Path, account: Account) {
    chown(path, Some(account.uid), Some(account.gid)).expect("root can give files away");
}

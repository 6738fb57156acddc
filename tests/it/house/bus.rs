//! A private message bus.

use std::{
    fs, io,
    os::unix::{fs::chown, net::UnixStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
};

use zbus::{Connection, connection};

use super::{
    Connector, NAME, NameWatch, broker,
    process::{Process, mortal},
    user::{self, Account, ROOT},
    within,
};

/// The project's own rules for the system bus: what the tests run against is what is installed.
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dbus/org.vmlockd1.conf");

/// What the bus may start when somebody calls a name that nobody owns.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) exec: String,
}

/// How a bus is run: all that it takes to run it again.
#[derive(Clone, Debug)]
pub(super) enum Program {
    /// dbus-daemon; one of type session belongs to a user.
    Daemon { account: Option<Account> },
    /// dbus-broker, which asks another bus to have services started.
    Broker { other: Arc<Bus> },
}

/// A bus of the type that the system has, or that a user's session has.
pub(crate) struct Bus {
    dir: PathBuf,
    program: Program,
    /// The program, and what it logs to if not to standard error. None while the bus is down.
    running: Mutex<Option<(Process, Option<broker::Journal>)>>,
    /// The processes that have connected to it for the test.
    connectors: Mutex<Vec<Connector>>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address())
    }
}

impl Bus {
    /// A system bus by dbus-daemon, with its files in `dir`, which may start `services` itself.
    pub(crate) async fn system(dir: &Path, services: &[Service]) -> Arc<Bus> {
        Bus::new(dir, Program::Daemon { account: None }, services).await
    }

    /// A system bus by dbus-broker. It has no systemd to ask, so it can't start services.
    pub(crate) async fn broker(dir: &Path) -> Arc<Bus> {
        let other = Bus::session(&dir.join("other"), ROOT).await;
        Bus::new(dir, Program::Broker { other }, &[]).await
    }

    /// The session bus of the user `uid`, who alone is let in, but for root.
    pub(crate) async fn session(dir: &Path, uid: u32) -> Arc<Bus> {
        Bus::new(dir, Program::Daemon { account: Some(Account::of(uid)) }, &[]).await
    }

    async fn new(dir: &Path, program: Program, services: &[Service]) -> Arc<Bus> {
        fs::create_dir_all(dir.join("services")).expect("a directory for the bus");
        for Service { name, exec } in services {
            // dbus-daemon wants to be told a user even where it can only be itself.
            let text = format!("[D-BUS Service]\nName={name}\nExec={exec}\nUser=root\n");
            fs::write(dir.join(format!("services/{name}.service")), text).expect("a service file");
        }
        let (running, connectors) = (Mutex::default(), Mutex::default());
        let bus = Bus { dir: dir.to_owned(), program, running, connectors };
        fs::write(bus.config(), bus.configuration()).expect("a configuration for the bus");
        if let Program::Daemon { account: Some(Account { uid, gid }) } = bus.program {
            chown(dir, Some(uid), Some(gid)).expect("root can give a directory away");
        }
        bus.start().await;
        Arc::new(bus)
    }

    /// Starts the bus again, under the same address.
    pub(crate) async fn start(&self) {
        let running = match &self.program {
            Program::Daemon { account } => (self.start_daemon(account.as_ref()).await, None),
            Program::Broker { other } => {
                let (process, journal) = broker::start(self, other);
                (process, Some(journal))
            }
        };
        *self.running.lock().unwrap() = Some(running);
        drop(self.connection().await);
    }

    /// Ends the bus under everyone's feet.
    pub(crate) fn stop(&self) {
        *self.running.lock().unwrap() = None;
    }

    /// Sets a limit of the bus, for the next time that it is started.
    pub(crate) fn limit(&self, name: &str, limit: usize) {
        let config = fs::read_to_string(self.config()).expect("the configuration of the bus");
        let limits = format!("<limit name=\"{name}\">{limit}</limit>\n</busconfig>");
        let config = config.replace("</busconfig>", &limits);
        fs::write(self.config(), config).expect("a file in our directory");
    }

    async fn start_daemon(&self, account: Option<&Account>) -> Process {
        let mut command = mortal(account, "dbus-daemon");
        command.arg(format!("--config-file={}", self.config().display()));
        command.args(["--nofork", "--nopidfile", "--nosyslog", "--print-address=1"]);
        command.stdout(Stdio::piped());
        let process = Process::start("dbus-daemon", command, &self.dir.join("log"));
        // It prints its address once it listens.
        process.says_something().await;
        process
    }

    /// Where programs find this bus.
    ///
    /// Without the bus's own id, so that it stays true when the bus is started again.
    pub(crate) fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("config.xml")
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new connection as the user whom the bus belongs to: root, but on a session bus.
    pub(crate) async fn connection(&self) -> Connection {
        let uid = match self.program {
            Program::Daemon { account: Some(Account { uid, .. }) } => uid,
            _ => ROOT,
        };
        self.connection_as(uid).await
    }

    /// A new connection as the user `uid`, for the calling task's runtime.
    pub(crate) async fn connection_as(&self, uid: u32) -> Connection {
        self.try_connection_as(uid).await.unwrap_or_else(|e| panic!("{}: {e}", self.address()))
    }

    /// The same, where being turned away is what is expected.
    pub(crate) async fn try_connection_as(&self, uid: u32) -> zbus::Result<Connection> {
        // A user's own instance looks at the processes of that user, and this process is root's.
        let Program::Daemon { account: Some(account) } = &self.program else {
            return connect(self.socket(), uid).await;
        };
        if uid == ROOT || uid != account.uid {
            return connect(self.socket(), uid).await;
        }
        let (log, account) = (self.dir.join("connector.log"), *account);
        let (connector, stream) = Connector::start(&["env"], Some(account), &self.socket(), &log);
        self.connectors.lock().unwrap().push(connector);
        let builder = connection::Builder::unix_stream(stream).user_id(uid);
        within("an answer to Hello", builder.build()).await
    }

    /// Follows the owner of the service's name.
    pub(crate) async fn watch(&self) -> NameWatch {
        NameWatch::new(&self.connection().await, NAME).await
    }

    fn configuration(&self) -> String {
        let (kind, policy) = match self.program {
            Program::Daemon { account: Some(_) } => ("session", session_policy()),
            _ => ("system", system_policy()),
        };
        let (socket, dir) = (self.socket(), self.dir.display());
        format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>{kind}</type>
  <listen>unix:path={}</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{dir}/services</servicedir>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>{policy}
</busconfig>
"#,
            socket.display()
        )
    }
}

/// A new connection to the bus that listens at `socket`, as the user `uid`.
pub(crate) async fn connect(socket: PathBuf, uid: u32) -> zbus::Result<Connection> {
    // The kernel notes who connects at the time of connecting, so that is all that needs the
    // user's credentials; what the SASL exchange says only has to agree.
    let stream: io::Result<_> = user::in_thread(uid, move || UnixStream::connect(socket)).await;
    let builder = connection::Builder::unix_stream(stream?).user_id(uid);
    within("an answer to Hello", builder.build()).await
}

/// Lets in who could come in anyway, by becoming that user.
fn session_policy() -> String {
    r#"
  <policy context="default">
    <allow user="root"/>
  </policy>"#
        .to_owned()
}

/// Lets everyone in, and closes what a real system bus closes for the one name that matters here.
fn system_policy() -> String {
    assert!(Path::new(POLICY).exists(), "{POLICY} is missing: the tests need the real bus policy");
    format!(
        r#"
  <policy context="default">
    <allow user="*"/>
    <deny own="{NAME}"/>
    <deny send_destination="{NAME}"/>
  </policy>
  <include>{POLICY}</include>"#
    )
}

//! Two hosts with a service each.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zbus::Connection;

use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::{
    CommandOutput, Connector, Daemon, Fixture, HostMount, Launch, SharedFileSystem, program, run,
    within,
};
use crate::nspawn::skip;

/// Where lock files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// The disk itself.
    Direct,
    /// In a directory of the shared file system.
    Hashed,
}

/// A host as its machines see it.
pub(super) struct Half {
    pub(super) bus: Connection,
    /// The process on this host to which that belongs.
    _caller: Connector,
    pub(super) daemon: Daemon,
    fixture: Fixture,
}

/// The hosts.
pub(super) struct Pair {
    pub(super) a: Half,
    pub(super) b: Half,
    pub(super) shared: SharedFileSystem,
}

/// Where lock files are, as both hosts know it.
pub(super) fn locks(shared: &SharedFileSystem) -> PathBuf {
    shared.path().join("locks")
}

/// The file system alone. None if this machine can't have it, which has been said then.
pub(super) async fn shared() -> Option<SharedFileSystem> {
    shared_with(&[]).await
}

/// Returns the file system alone, mounted with these arguments of `mfsmount(8)`. `None` if this
/// machine can't have it, which was printed then.
pub(super) async fn shared_with(arguments: &[&str]) -> Option<SharedFileSystem> {
    match SharedFileSystem::start_with(arguments).await {
        Ok(shared) => Some(shared),
        Err(reason) => skip(&reason),
    }
}

impl Pair {
    /// Starts it all. None if this machine can't, which has been said then.
    pub(super) async fn start(files: Files) -> Option<Pair> {
        let config = match files {
            Files::Direct => "",
            Files::Hashed => "file_lockspace_dir = \"@LOCKS@\"\n",
        };
        Pair::start_with([config; 2]).await
    }

    /// Starts the services with settings for each, in which `@LOCKS@` is a directory of the shared
    /// file system.
    pub(super) async fn start_with(configs: [&str; 2]) -> Option<Pair> {
        let shared = shared().await?;
        let [a, b] = shared.hosts();
        let locks = locks(&shared);
        fs::create_dir(a.at(&locks)).unwrap();
        fs::set_permissions(a.at(&locks), Permissions::from_mode(0o700)).unwrap();
        let [for_a, for_b] =
            configs.map(|config| config.replace("@LOCKS@", &locks.display().to_string()));
        let (a, b) = (Half::on(a, &for_a).await, Half::on(b, &for_b).await);
        Some(Pair { a, b, shared })
    }

    /// Each as the first, and the other as the second.
    pub(super) fn both_ways(&self) -> [(&Half, &Half); 2] {
        [(&self.a, &self.b), (&self.b, &self.a)]
    }
}

impl Half {
    async fn on(side: &HostMount, config: &str) -> Half {
        let fixture = Fixture::builder().config(config).without_daemon().start().await;
        let launch = Launch { inside: side.inside(), ..fixture.launch() };
        let daemon = Daemon::start(fixture.bus(), launch).await;
        let log = fixture.dir().join("connector.log");
        let socket = fixture.dir().join("bus/socket");
        let (caller, stream) = Connector::start(&side.inside(), None, &socket, &log);
        let builder = zbus::connection::Builder::unix_stream(stream).user_id(0);
        let bus = within("an answer to Hello", builder.build()).await.unwrap();
        Half { bus, _caller: caller, daemon, fixture }
    }

    /// Runs the tool on this host, which is that side.
    pub(super) async fn vmlockctl(&self, side: &HostMount, arguments: &[&str]) -> CommandOutput {
        let inside = side.inside();
        let mut command = self.fixture.command(&inside[0]);
        command.args(&inside[1..]).arg(program("vmlockctl")).args(arguments);
        run(command).await
    }

    /// A machine on this host.
    pub(super) async fn machine(&self, name: &str) -> TestVm {
        TestVm::open(&self.bus, name).await
    }
}

/// Asks until the machine has the disk.
pub(super) async fn until_got(machine: &TestVm, disk: &Path) {
    until("the disk is free", async || match machine.acquire(&[exclusive(disk)]).await {
        Ok(_) => true,
        Err(refused) => {
            assert_eq!(refused.name, "LockHeldElsewhere", "{refused:?}");
            false
        }
    })
    .await;
}

/// Asks until it is so, with pauses: who asks without any keeps the processors from the file
/// system's servers, on which it depends.
pub(super) async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let mut moments = tokio::time::interval(Duration::from_millis(20));
    let so = async {
        while !so().await {
            moments.tick().await;
        }
    };
    within(what, so).await;
}

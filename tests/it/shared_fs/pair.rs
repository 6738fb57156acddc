//! Two hosts with a service each.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use zbus::Connection;

use crate::host::skip;
use crate::house::{Daemon, House, Launch, Shared, Side, within};
use crate::machine::{Machine, exclusive};

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
    pub(super) daemon: Daemon,
    _house: House,
}

/// The hosts.
pub(super) struct Pair {
    pub(super) a: Half,
    pub(super) b: Half,
    pub(super) shared: Shared,
}

/// The file system alone. None if this machine can't have it, which has been said then.
pub(super) async fn shared() -> Option<Shared> {
    match Shared::start().await {
        Ok(shared) => Some(shared),
        Err(reason) => skip(&reason),
    }
}

impl Pair {
    /// Starts it all. None if this machine can't, which has been said then.
    pub(super) async fn start(files: Files) -> Option<Pair> {
        let shared = shared().await?;
        let [a, b] = shared.hosts();
        let locks = shared.path().join("locks");
        fs::create_dir(a.at(&locks)).unwrap();
        fs::set_permissions(a.at(&locks), Permissions::from_mode(0o700)).unwrap();
        let config = match files {
            Files::Direct => String::new(),
            Files::Hashed => format!("file_lockspace_dir = \"{}\"\n", locks.display()),
        };
        let (a, b) = (Half::on(a, &config).await, Half::on(b, &config).await);
        Some(Pair { a, b, shared })
    }

    /// Each as the first, and the other as the second.
    pub(super) fn both_ways(&self) -> [(&Half, &Half); 2] {
        [(&self.a, &self.b), (&self.b, &self.a)]
    }
}

impl Half {
    async fn on(side: &Side, config: &str) -> Half {
        let house = House::builder().config(config).without_daemon().start().await;
        let launch = Launch { inside: side.inside(), ..house.launch() };
        let daemon = Daemon::start(house.bus(), launch).await;
        Half { bus: house.connection().await, daemon, _house: house }
    }

    /// A machine on this host.
    pub(super) async fn machine(&self, name: &str) -> Machine {
        Machine::open(&self.bus, name).await
    }
}

/// Asks until the machine has the disk.
pub(super) async fn until_got(machine: &Machine, disk: &Path) {
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

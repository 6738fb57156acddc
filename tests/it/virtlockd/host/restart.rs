//! The state that survives a kill of the service: locks, and the connections of VMs that will send
//! nothing more. All other connections are closed, so that no client waits for a reply forever.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use zbus::Connection;

use crate::fixture::rpc::{Frame, Owner, SHARED, arguments, procedure};
use crate::fixture::{ForeignHolder, LockProber, LockType, within};
use crate::nspawn::{Host, MainProcess, Tree};
use crate::refused_requests::assert_free;
use crate::snapshot::Listed;

use super::super::guest::Guest;

const SOCKET: &str = "/run/vmlockd/virtlockd-sock";
/// Where the service can be made to abort while a connection is being parked.
pub(crate) const POINTS: [&str; 2] = ["restrict-noted", "restrict-parked"];

struct Scenario {
    host: Host,
    bus: Connection,
    service: MainProcess,
    path: PathBuf,
    disk: String,
}

impl Scenario {
    async fn set_up() -> Option<Scenario> {
        let host = Host::boot(Tree::Own).await?;
        host.configure(&format!("virtlockd_socket = \"{SOCKET}\"\n"));
        let service = host.enable().await;
        let path = host.image("disk.img");
        let disk = path.to_str().unwrap().to_owned();
        Some(Scenario { bus: host.bus().await, path: host.at(&path), host, service, disk })
    }

    async fn guest(&self) -> Guest {
        Guest::inside(&self.host, Path::new(SOCKET)).await
    }

    /// A connection in somebody's name.
    async fn libvirtd(&self, owner: &Owner) -> Guest {
        let mut libvirtd = self.guest().await;
        libvirtd.register(owner).await.granted();
        libvirtd
    }

    /// Makes the service abort at a failpoint, and waits for the next one.
    async fn abort(&mut self, point: &str, at: impl Future<Output = ()>) {
        let mut watch = self.host.watch().await;
        at.await;
        self.service = self.host.successor(&mut watch, self.service).await;
        let said = self.host.journal().await;
        assert!(said.contains(&format!("aborting at {point}, as told")), "{said}");
    }

    /// Kills the service, and waits for the next one.
    async fn kill(&mut self) {
        let mut watch = self.host.watch().await;
        self.service.signal(Signal::SIGKILL);
        self.service = self.host.successor(&mut watch, self.service).await;
    }

    async fn end(&self, guest: &Guest) {
        self.host.run(&["kill", "-KILL", &guest.pid.to_string()]).await.ok();
    }

    async fn is_freed(&self) {
        let freed = async { while Listed::by(&self.bus).await.on(&self.disk).count() > 0 {} };
        within("the disk is given up", freed).await;
        assert_free(&self.path);
    }

    async fn is_locked(&self) {
        assert_eq!(Listed::by(&self.bus).await.on(&self.disk).count(), 1);
        ForeignHolder::try_once(&self.path, LockType::Posix, true).unwrap_err();
    }
}

#[tokio::test]
async fn a_vm_and_its_connection() {
    let Some(mut scenario) = Scenario::set_up().await else { return };
    let mut guest = scenario.guest().await;
    let owner = guest.come_up("web1", 1).await;
    scenario.libvirtd(&owner).await.acquire(&scenario.disk, 0).await.granted();
    let before = Listed::by(&scenario.bus).await;
    let lock_prober = LockProber::at(std::slice::from_ref(&scenario.path), &scenario.host.log());

    scenario.kill().await;
    scenario.kill().await;
    assert_eq!(Listed::by(&scenario.bus).await, before);
    // It is the same connection, and it has not got its rights back.
    let refused = guest.acquire(&scenario.disk, 0).await.refused();
    assert_eq!(refused.code, 29, "{}", refused.message);

    let mut foreign_holder = scenario.guest().await;
    foreign_holder.register(&foreign_holder.owner("web2", 2)).await.granted();
    let refused = foreign_holder.acquire(&scenario.disk, 0).await.refused();
    assert_eq!(refused.code, 87, "{}", refused.message);
    assert!(refused.message.contains("web1"), "{}", refused.message);
    lock_prober.stop().were_refused();

    // It is suspended and goes on.
    let mut libvirtd = scenario.libvirtd(&owner).await;
    libvirtd.release(&scenario.disk).await.granted();
    let again = libvirtd.release(&scenario.disk).await.refused();
    assert_eq!(again.code, 87, "{}", again.message);
    libvirtd.acquire(&scenario.disk, 0).await.granted();
    scenario.is_locked().await;
    scenario.end(&guest).await;
    scenario.is_freed().await;
}

/// The client has received the refusal: nothing is pending, and it does not wait.
#[tokio::test]
async fn a_connection_that_was_refused_something() {
    let Some(mut scenario) = Scenario::set_up().await else { return };
    let mut guest = scenario.guest().await;
    guest.come_up("web1", 1).await;
    for _ in 0..2 {
        scenario.kill().await;
        let refused = guest.acquire(&scenario.disk, 0).await.refused();
        assert_eq!(refused.code, 29, "{}", refused.message);
    }
}

/// Its process alone is enough, before and after.
#[tokio::test]
async fn a_vm_that_closes_its_connection() {
    let Some(mut scenario) = Scenario::set_up().await else { return };
    let mut guest = scenario.guest().await;
    let owner = guest.come_up("web1", 1).await;
    scenario.libvirtd(&owner).await.acquire(&scenario.disk, 0).await.granted();
    scenario.kill().await;
    guest.close().await;
    scenario.kill().await;
    scenario.is_locked().await;
    scenario.end(&guest).await;
    scenario.is_freed().await;
}

#[tokio::test]
async fn connections_with_possible_requests_are_closed() {
    let Some(mut scenario) = Scenario::set_up().await else { return };
    let (mut silent, mut registered) = (scenario.guest().await, scenario.guest().await);
    registered.register(&registered.owner("web1", 1)).await.granted();
    registered.acquire(&scenario.disk, 0).await.granted();
    let (mut half, mut waiting) = (scenario.guest().await, scenario.guest().await);
    half.come_up("web2", 2).await;
    let call =
        Frame::call(procedure::RELEASE, 9, arguments::resource("", &scenario.disk, 0)).bytes();
    half.send(&call[..40]).await;
    waiting.send(&call[..4]).await;
    scenario.guest().await.come_up("web3", 3).await;

    scenario.kill().await;
    for (guest, what) in [
        (&mut silent, "silent"),
        (&mut registered, "registered"),
        (&mut half, "half a message"),
        (&mut waiting, "a length"),
    ] {
        assert_eq!(guest.receive().await, None, "{what}");
    }
    // Its process is there all the same.
    scenario.is_locked().await;
    scenario.end(&registered).await;
    scenario.is_freed().await;
}

#[tokio::test]
async fn shared_twice() {
    let Some(mut scenario) = Scenario::set_up().await else { return };
    let mut guest = scenario.guest().await;
    let owner = guest.come_up("web1", 1).await;
    let mut libvirtd = scenario.libvirtd(&owner).await;
    libvirtd.acquire(&scenario.disk, SHARED).await.granted();
    libvirtd.acquire(&scenario.disk, SHARED).await.granted();
    scenario.kill().await;
    let mut libvirtd = scenario.libvirtd(&owner).await;
    libvirtd.release(&scenario.disk).await.granted();
    scenario.is_locked().await;
    scenario.kill().await;
    let mut libvirtd = scenario.libvirtd(&owner).await;
    scenario.is_locked().await;
    libvirtd.release(&scenario.disk).await.granted();
    assert_free(&scenario.path);
    let refused = libvirtd.release(&scenario.disk).await.refused();
    assert_eq!(refused.code, 87, "{}", refused.message);
}

/// A client that requests a restriction gets a reply, or sees the connection end: it never waits
/// forever. The VM, whose process is running, keeps its locks.
#[tokio::test]
async fn a_vm_that_is_being_restricted() {
    let Some(mut scenario) = Scenario::set_up().await else { return };
    for point in POINTS {
        // The restarted service is another process, which does not reach that failpoint again.
        let armed = format!("[Service]\nEnvironment=VMLOCKD_ABORT_AT={point}\n");
        scenario.host.drop_in("abort", &armed).await;
        scenario.kill().await;
        let mut guest = scenario.guest().await;
        guest.register(&guest.owner("web1", 1)).await.granted();
        guest.acquire(&scenario.disk, 0).await.granted();
        scenario.host.drop_in("abort", "").await;
        let call = Frame::call(procedure::RESTRICT, 9, arguments::restrict(0)).bytes();
        scenario.abort(point, guest.send(&call)).await;
        assert_eq!(guest.receive().await, None, "{point}");
        scenario.is_locked().await;
        scenario.end(&guest).await;
        scenario.is_freed().await;
    }
}

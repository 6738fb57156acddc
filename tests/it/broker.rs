//! The bus goes away and comes back: locks stay, and nothing of the old connection does.

use crate::dbus_client::{TestVm, exclusive, lock, manager, owner};
use crate::fixture::{Broker, DEADLINE, Fixture, LockProber, within};
use crate::nspawn::{Host, Tree};
use crate::refused_requests::{assert_free, assert_refused};
use crate::snapshot::Listed;

/// How often the bus goes away.
const ROUNDS: usize = 10;

async fn ten_times(broker: Broker) {
    let fixture = Fixture::builder().broker(broker).start().await;
    let daemon = fixture.daemon();
    let bus = fixture.connection().await;
    let (disk, passing) = (fixture.raw_of(0, "disk"), fixture.raw_of(0, "passing"));
    let web1 = TestVm::open(&bus, "web1").await;
    let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let before = Listed::by(&bus).await;
    let lock_prober =
        LockProber::at(std::slice::from_ref(&disk), &fixture.dir().join("prober.log"));
    let mut descriptors = None;
    for round in 0..ROUNDS {
        let bus = fixture.connection().await;
        let web2 = TestVm::open(&bus, "web2").await;
        web2.acquire(&[exclusive(&passing)]).await.unwrap();
        fixture.bus().stop();
        // Its lifeline ends while there is no bus to send a signal on.
        drop(web2);
        fixture.bus().start().await;
        fixture.bus().watch().await.owned_by(daemon.pid()).await;
        let bus = fixture.connection().await;
        let gone = async { while Listed::by(&bus).await != before {} };
        within("an owner whose lifeline has ended", gone).await;
        assert_free(&passing);
        let [lock_path] = &*locks else { panic!("one lock: {locks:?}") };
        let resource = lock(&bus, lock_path).await.resource().await.unwrap();
        assert_eq!(resource, disk.to_str().unwrap());
        assert_eq!(owner(&bus, web1.path()).await.locks().await.unwrap(), locks);

        let most = *descriptors.get_or_insert_with(|| daemon.open_fds());
        let settled = async {
            while daemon.open_fds() > most {
                manager(&bus).await.n_locks().await.unwrap();
            }
        };
        let settled = tokio::time::timeout(DEADLINE, settled).await;
        assert!(settled.is_ok(), "round {round}: more than {most}: {:#?}", daemon.fd_targets());
    }
    let attempts = lock_prober.stop();
    assert!(attempts.news.is_empty(), "{attempts:#?}");
    drop(web1);
    let bus = fixture.connection().await;
    let gone = async { while !Listed::by(&bus).await.owners.is_empty() {} };
    within("the machine's end", gone).await;
    assert_free(&disk);
}

#[tokio::test]
async fn dbus_daemon_ten_times() {
    ten_times(Broker::DbusDaemon).await;
}

#[tokio::test]
async fn dbus_broker_ten_times() {
    ten_times(Broker::DbusBroker).await;
}

/// The bus of a host with systemd.
mod host {
    use super::*;

    /// The host's bus ends, by an administrator or by itself; the service is not ended with it.
    async fn of_a_host(happen: &[&str]) {
        let Some(host) = Host::boot(Tree::Own).await else { return };
        let main = host.enable().await;
        let (bus, disk) = (host.bus().await, host.image("disk"));
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let before = Listed::by(&bus).await;
        let lock_prober = LockProber::at(&[host.at(&disk)], &host.log());
        host.systemctl(happen).await;
        within("the bus ends", bus.closed()).await;

        // Where it was killed, this connection starts it.
        host.watch().await.owned_by(main.inside).await;
        let bus = host.bus().await;
        assert_eq!(Listed::by(&bus).await, before);
        assert_eq!(host.main().await, main);
        lock_prober.stop().were_refused();
        let other = TestVm::open(&bus, "other").await;
        let refused = other.acquire(&[exclusive(&disk)]).await.unwrap_err();
        assert_refused(&refused, "LockHeld", "web1");
        drop(web1);
        let free = async { while other.acquire(&[exclusive(&disk)]).await.is_err() {} };
        within("the machine's end", free).await;
    }

    #[tokio::test]
    async fn of_a_host_restarted() {
        of_a_host(&["restart", "dbus.service"]).await;
    }

    #[tokio::test]
    async fn of_a_host_killed() {
        of_a_host(&["kill", "--signal=KILL", "dbus.service"]).await;
    }
}

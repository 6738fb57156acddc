//! A bus that loses replies, stops reading or does not answer: the service goes on, and comes back.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use tokio::task::yield_now;
use vmlockd::client::{Options, connect_private};
use zbus::Connection;

use crate::dbus_client::{Refused, TestVm, exclusive, manager, option};
use crate::fixture::rpc::{Owner, Rpc};
use crate::fixture::user::{NOBODY, ROOT, in_thread};
use crate::fixture::{Fixture, Flood, Process, Relay, StalledClient, within};
use crate::methods::none;

/// A service that is on its bus by a relay.
struct Scenario {
    // In this order: the service goes first.
    service: Process,
    relay: Relay,
    fixture: Fixture,
}

impl Scenario {
    fn set_up(fixture: Fixture, relay: Relay) -> Scenario {
        let mut launch = fixture.launch();
        launch.env.push(("DBUS_SYSTEM_BUS_ADDRESS".to_owned(), relay.address()));
        let socket = fixture.dir().join("virtlockd");
        launch.args.extend(["--virtlockd-socket".to_owned(), socket.display().to_string()]);
        let service = Process::start("vmlockd", launch.command(fixture.bus()), &launch.log);
        Scenario { service, relay, fixture }
    }

    async fn start() -> Scenario {
        let fixture = Fixture::builder().without_daemon().start().await;
        let relay = relay(&fixture);
        let mut watch = fixture.bus().watch().await;
        let scenario = Scenario::set_up(fixture, relay);
        watch.owned().await;
        scenario
    }

    fn virtlockd(&self) -> PathBuf {
        self.fixture.dir().join("virtlockd")
    }

    /// Locks a disk by virtlockd's socket, once it is there.
    async fn lock_for_libvirt(&self, number: u8) {
        let disk = self.fixture.raw_of(ROOT, &format!("disk{number}"));
        let socket = self.virtlockd();
        let connected = async {
            loop {
                match Rpc::connect(&socket) {
                    Ok(client) => return client,
                    Err(_) => yield_now().await,
                }
            }
        };
        let mut client = within("virtlockd's socket", connected).await;
        let locked = in_thread(ROOT, move || {
            client.register(&Owner::new("vm", number, std::process::id())).granted();
            client.acquire("", disk.to_str().unwrap(), 0).granted();
        });
        within("a lock", locked).await;
    }
}

fn relay(fixture: &Fixture) -> Relay {
    let bus = fixture.address().strip_prefix("unix:path=").unwrap().to_owned();
    Relay::start(fixture.dir(), bus.as_ref())
}

async fn lists(connection: &Connection) -> Result<usize, Refused> {
    let manager = manager(connection).await;
    let listed = within("a list", manager.list_locks(Options::new())).await;
    listed.map(|list| list.len()).map_err(Refused::from)
}

#[tokio::test]
async fn a_lost_reply_is_requested_again() {
    let scenario = Scenario::start().await;
    scenario.relay.lose_credentials(2);
    assert_eq!(lists(&scenario.fixture.connection().await).await.unwrap(), 0);
    scenario.relay.has_lost(2).await;
}

#[tokio::test]
async fn connections_that_stay_unknown_keep_no_other_from_being_identified() {
    let scenario = Scenario::start().await;
    scenario.relay.lose_credentials(usize::MAX);
    // More than are looked up at one time, for the first time and again.
    let mut unknown = Vec::new();
    for _ in 0..150 {
        let connection = scenario.fixture.connection_as(NOBODY).await;
        let asking = connection.clone();
        unknown.push((connection, tokio::spawn(async move { lists(&asking).await })));
    }
    scenario.relay.has_lost(150).await;
    scenario.relay.lose_credentials(0);
    assert_eq!(lists(&scenario.fixture.connection().await).await.unwrap(), 0);
    for (connection, asked) in unknown {
        // Clients that the bus did not serve for too long reconnect.
        if let Err(refused) = asked.await.unwrap() {
            assert_eq!(refused.name, "DBus.Error.LimitsExceeded", "{refused:?}");
            assert_eq!(lists(&connection).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn connections_whose_end_was_missed_are_forgotten() {
    let scenario = Scenario::start().await;
    let (root, leaving) =
        (scenario.fixture.connection().await, scenario.fixture.connection().await);
    let image = scenario.fixture.image("one.qcow2").await;
    let web1 = TestVm::open(&root, "web1").await;
    web1.acquire(&[exclusive(&image)]).await.unwrap();
    let web2 = TestVm::open(&leaving, "web2").await;
    let disk = image.to_str().unwrap().to_owned();
    let wait = tokio::spawn(async move {
        web2.owner.acquire(&[(disk.as_str(), "exclusive")], option("timeout-usec", u64::MAX)).await
    });
    let manager = manager(&root).await;
    let waiting = async |count| while manager.n_waiting().await.unwrap() != count {};
    within("a waiter", waiting(1)).await;
    scenario.relay.lose_leaving(usize::MAX);
    leaving.close().await.unwrap();
    scenario.relay.has_lost(1).await;
    assert!(wait.await.unwrap().is_err());
    // That messages are lost is noticed by a reply that does not come.
    scenario.relay.lose_credentials(1);
    assert_eq!(lists(&scenario.fixture.connection().await).await.unwrap(), 1);
    within("the end of the wait", waiting(0)).await;
}

#[tokio::test]
async fn the_service_reconnects_to_a_bus_that_stops_reading() {
    let scenario = Scenario::start().await;
    let (root, mut watch) =
        (scenario.fixture.connection().await, scenario.fixture.bus().watch().await);
    let image = scenario.fixture.image("one.qcow2").await;
    let web1 = TestVm::open(&root, "web1").await;
    web1.acquire(&[exclusive(&image)]).await.unwrap();
    let first = watch.owned().await;
    scenario.relay.leave_unread(1);
    // The first thing that the bus does not read is a question about this connection.
    let caller = scenario.fixture.connection().await;
    assert!(within("the end", Flood::Introspect.call_on(&caller)).await.is_err());
    watch.owned_by_other_than(&first).await;
    assert_eq!(lists(&root).await.unwrap(), 1);
    assert!(scenario.service.lives());
    scenario.service.logs("does not read what vmlockd sends").await;
    let said = scenario.service.stderr();
    assert_eq!(said.matches("does not read what vmlockd sends").count(), 1, "{said}");
    let refused = TestVm::open(&root, "web2").await.acquire(&[exclusive(&image)]).await;
    assert_eq!(refused.unwrap_err().name, "LockHeld");
}

#[tokio::test]
async fn a_private_client_is_answered_while_the_bus_does_not_read() {
    let scenario = Scenario::start().await;
    let private = scenario.fixture.dir().join("run/private");
    let private = connect_private(&private).await.unwrap();
    let caller = scenario.fixture.connection().await;
    // Known to the service, so that no question has to be answered.
    lists(&caller).await.unwrap();
    scenario.relay.leave_unread(1);
    let calls = (0..200).map(|_| {
        let caller = caller.clone();
        tokio::spawn(async move { Flood::Introspect.call_on(&caller).await.map(drop) })
    });
    let calls: Vec<_> = calls.collect();
    for _ in 0..20 {
        assert_eq!(lists(&private).await.unwrap(), 0);
    }
    for call in calls {
        assert!(within("the end of the connection", call).await.unwrap().is_err());
    }
}

#[tokio::test]
async fn lifelines_that_are_not_read_stop_no_other_client() {
    let fixture = Fixture::builder().without_daemon().start().await;
    fixture.bus().stop();
    fixture.bus().limit("max_incoming_unix_fds", 8);
    fixture.bus().limit("max_replies_per_connection", 1000);
    fixture.bus().start().await;
    let mut watch = fixture.bus().watch().await;
    let launch = fixture.launch();
    let service = Process::start("vmlockd", launch.command(fixture.bus()), &launch.log);
    let first = watch.owned().await;
    let socket: PathBuf = fixture.address().strip_prefix("unix:path=").unwrap().into();
    let root = fixture.connection().await;
    let web1 = TestVm::open(&root, "web1").await;
    // Replies fill the socket of this client, and descriptors wait behind them.
    let mut stalled_client = StalledClient::connect(&socket);
    for _ in 0..200 {
        let introspect = ("org.freedesktop.DBus.Introspectable", "Introspect");
        stalled_client.call("/org/vmlockd1", introspect, &());
    }
    let path = web1.path().to_string();
    for _ in 0..20 {
        stalled_client.call(&path, ("org.vmlockd1.Owner", "NewLifeline"), &none());
    }
    watch.owned_by_other_than(&first).await;
    assert_eq!(lists(&root).await.unwrap(), 0);
    assert!(service.lives());
}

#[tokio::test]
async fn startup_does_not_wait_for_a_hung_bus() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let relay = relay(&fixture);
    relay.leave_unread(usize::MAX);
    let mut watch = fixture.bus().watch().await;
    let scenario = Scenario::set_up(fixture, relay);
    scenario.lock_for_libvirt(1).await;
    scenario.relay.leave_unread(0);
    watch.owned().await;
    assert_eq!(lists(&scenario.fixture.connection().await).await.unwrap(), 1);
}

#[tokio::test]
async fn reexec_and_shutdown_do_not_wait_for_a_hung_bus() {
    let scenario = Scenario::start().await;
    scenario.lock_for_libvirt(1).await;
    scenario.relay.leave_unread(usize::MAX);
    scenario.service.signal(Signal::SIGUSR1);
    within("the replacement", async {
        while !scenario.service.stderr().contains("is re-executing the installed program") {
            yield_now().await;
        }
    })
    .await;
    scenario.lock_for_libvirt(2).await;
    scenario.service.signal(Signal::SIGTERM);
    within("the end", scenario.service.ended()).await;
}

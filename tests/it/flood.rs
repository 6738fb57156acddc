//! Messages beyond all measure: the service stays small, answers root, and serves on afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use futures_util::StreamExt as _;
use vmlockd::client::SERVICE;
use zbus::fdo::PeerProxy;
use zbus::message::{Flags, Message, Type};
use zbus::{Connection, MessageStream};

use crate::dbus_client::{Refused, TestVm, exclusive};
use crate::fixture::user::{NOBODY, ROOT, in_thread};
use crate::fixture::{Answer, Broker, Fixture, Flood, Flooder, polkit, within};
use crate::methods::none;
use crate::refused_requests::assert_refused;

/// The maximum memory of the service in KiB.
const MEMORY: u64 = 64 << 10;

/// The most memory that the service has had, in KiB.
fn peak(fixture: &Fixture) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", fixture.daemon().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn socket(fixture: &Fixture) -> PathBuf {
    fixture.address().strip_prefix("unix:path=").unwrap().into()
}

async fn ping(bus: &Connection) -> Result<(), Refused> {
    let peer = PeerProxy::builder(bus).destination(SERVICE).path("/");
    let peer = peer.build().await.unwrap();
    within("an answer", peer.ping()).await.map_err(Refused::from)
}

/// Three connections of one user send so many calls each, every other one without waiting for
/// replies; root locks and unlocks a disk until they have.
async fn flood(
    fixture: &Fixture,
    root: &TestVm,
    disk: &std::path::Path,
    kind: Flood,
    count: usize,
) {
    const SENDERS: usize = 3;
    let sent = Arc::new(AtomicUsize::new(0));
    for _ in 0..SENDERS {
        let (socket, sent) = (socket(fixture), sent.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(in_thread(NOBODY, move || {
                let mut flooder = Flooder::connect(&socket);
                for n in 0..10 {
                    flooder.send(kind, n % 2 == 0, count / 10);
                }
            }));
            sent.fetch_add(1, Ordering::Release);
        });
    }
    while sent.load(Ordering::Acquire) < SENDERS {
        let locks = within("root's lock", root.acquire(&[exclusive(disk)])).await.unwrap();
        within("root's release", root.release(&locks)).await.unwrap();
    }
}

async fn floods_are_bounded(broker: Broker) {
    let fixture = Fixture::builder().broker(broker).start().await;
    let disk = fixture.raw_of(ROOT, "disk");
    let root = TestVm::open(&fixture.connection().await, "root").await;
    let user = fixture.connection_as(NOBODY).await;
    for kind in Flood::ALL {
        let count = if kind == Flood::LargeMessage { 100 } else { 5000 };
        flood(&fixture, &root, &disk, kind, count).await;
        let peak = peak(&fixture);
        assert!(peak < MEMORY, "{kind:?}: {peak} KiB");
        // The user is served again as soon as it does not call too fast.
        while let Err(refused) = ping(&user).await {
            assert_refused(&refused, "DBus.Error.LimitsExceeded", "calls");
        }
    }
    root.owner.close(none()).await.unwrap();
}

#[tokio::test]
async fn a_flood_by_way_of_dbus_daemon_is_bounded() {
    floods_are_bounded(Broker::DbusDaemon).await;
}

#[tokio::test]
async fn a_flood_by_way_of_dbus_broker_is_bounded() {
    floods_are_bounded(Broker::DbusBroker).await;
}

/// How often the event loop was suspended until now: once for each time that it was woken.
fn switches(fixture: &Fixture) -> usize {
    let pid = fixture.daemon().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn the_event_loop_is_not_woken_for_each_message_of_a_flood() {
    const COUNT: usize = 40_000;
    let fixture = Fixture::builder().broker(Broker::DbusDaemon).start().await;
    let (root, socket) = (fixture.connection().await, socket(&fixture));
    let flood = async || {
        let socket = socket.clone();
        let sent =
            in_thread(NOBODY, move || Flooder::connect(&socket).send(Flood::Ping, false, COUNT));
        assert!(sent.await);
        // Answered once all that the bus has accepted before has been read.
        ping(&root).await.unwrap();
    };
    // A thread reads from then on.
    flood().await;
    let before = switches(&fixture);
    flood().await;
    let woken = switches(&fixture) - before;
    assert!(woken < COUNT / 10, "woken {woken} times for {COUNT} messages");
}

#[tokio::test]
async fn calls_of_every_interface_count() {
    let fixture = Fixture::builder().config("[limits]\ncalls_per_second = 1").start().await;
    let root = fixture.connection().await;
    let words = format!("too many calls: the limit is 1 in a second for uid {NOBODY}");
    for kind in Flood::ALL {
        let user = fixture.connection_as(NOBODY).await;
        let mut limited = None;
        for _ in 0..20 {
            let outcome = within("an answer", kind.call_on(&user)).await;
            if let Err(refused) = outcome.map_err(Refused::from)
                && refused.name == "DBus.Error.LimitsExceeded"
            {
                limited = Some(refused);
                break;
            }
        }
        let limited = limited.unwrap_or_else(|| panic!("{kind:?} is not limited"));
        assert_refused(&limited, "DBus.Error.LimitsExceeded", &words);
        // Root is not.
        for _ in 0..20 {
            if let Err(error) = within("an answer", kind.call_on(&root)).await {
                let refused = Refused::from(error);
                assert_ne!(refused.name, "DBus.Error.LimitsExceeded", "{kind:?}: {refused:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused() {
    for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
        let fixture = Fixture::builder().broker(broker).start().await;
        let user = fixture.connection_as(NOBODY).await;
        let body = "x".repeat(8 << 20);
        let peer = Some("org.freedesktop.DBus.Peer");
        for _ in 0..3 {
            let call = user.call_method(Some(SERVICE), "/", peer, "Ping", &body);
            let refused = within("an answer", call).await.unwrap_err().into();
            let words = "too many bytes: the limit is 1048576 in one message";
            assert_refused(&refused, "DBus.Error.LimitsExceeded", words);
        }
        ping(&user).await.unwrap();
        assert!(peak(&fixture) < MEMORY);
    }
}

/// The service's connection to the bus ends only if the bus ends it.
#[tokio::test]
async fn a_header_with_a_field_that_is_not_defined_ends_nothing() {
    for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
        let fixture = Fixture::builder().broker(broker).start().await;
        let root = fixture.connection().await;
        let mut watch = fixture.bus().watch().await;
        let before = watch.owned().await;
        let at = socket(&fixture);
        in_thread(NOBODY, move || Flooder::connect(&at).send_undefined_field()).await;
        for _ in 0..3 {
            ping(&root).await.unwrap();
        }
        assert_eq!(fixture.bus().watch().await.owned().await, before, "{broker:?}");
    }
}

#[tokio::test]
async fn a_call_without_reply_expected_gets_none() {
    let fixture = Fixture::builder().start().await;
    let user = fixture.connection_as(NOBODY).await;
    let mut received = MessageStream::from(&user);
    let call = || {
        let call = Message::method_call("/", "Ping").destination(SERVICE);
        call.interface("org.freedesktop.DBus.Peer")
    };
    let silent = call().with_flags(Flags::NO_REPLY_EXPECTED).build(&()).unwrap();
    let last = call().build(&()).unwrap();
    for message in [&silent, &silent, &last] {
        user.send(message).await.unwrap();
    }
    let replies = async {
        let mut replies = Vec::new();
        while let Some(Ok(message)) = received.next().await {
            if matches!(message.message_type(), Type::MethodReturn | Type::Error) {
                replies.extend(message.header().reply_serial());
                if replies.last() == Some(&last.primary_header().serial_num()) {
                    break;
                }
            }
        }
        replies
    };
    let replies = within("a reply", replies).await;
    assert_eq!(replies, [last.primary_header().serial_num()]);
}

#[tokio::test]
async fn the_log_lines_of_one_user_are_limited() {
    let limits = "[limits]\ncalls_per_second = 100000\ncalls_per_second_per_connection = 100000";
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).config(limits).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let user = fixture.connection_as(NOBODY).await;
    let root = fixture.connection().await;
    let (machine, disk) = (TestVm::open(&user, "users").await, fixture.raw_of(NOBODY, "users"));
    for _ in 0..100 {
        let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();
        machine.release(&locks).await.unwrap();
        TestVm::open(&root, "roots").await.owner.close(none()).await.unwrap();
    }
    let log = fixture.daemon().complete_log().await;
    let count = |name: &str| log.lines().filter(|line| line.contains(name)).count();
    // Two lines for each lock, with the user: acquired, and released.
    assert_eq!(count("opened owner of VM \"roots\""), 100);
    let users = count(&format!(", uid {NOBODY})"));
    assert_eq!(users, 120, "{log}");
}

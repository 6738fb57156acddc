//! A caller that disconnects before the reply gets no lock.
//!
//! The exact rule: before the service replies to a caller that has waited, it asks the bus whether
//! the caller is connected. If not, all locks are released; if it is, the reply is sent, and the
//! owner holds the locks. The caller may disconnect between the two, and such a reply cannot be
//! distinguished from a received one. So this test relies on the bus: a monitor sees in the order of
//! the bus when the question was answered, and when the caller had disconnected.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use nix::sys::signal::Signal;
use tokio::sync::watch;
use zbus::fdo::MonitoringProxy;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, OwnedObjectPath};

use super::{LONG, until_waiting};
use crate::dbus_client::{TestVm, exclusive, option, owner};
use crate::fixture::rng::{Rng, seed};
use crate::fixture::{Fixture, Process, within};
use crate::refused_requests::{assert_free, assert_refused};

/// The number of disconnecting callers; each one of the second number is a process that is killed.
const TRIES: (usize, usize) = (1000, 20);
/// The number of measurements of the time from a release to a reply.
const LIVES: usize = 20;

/// The messages of the bus about one caller.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct CallerRecord {
    /// The number of replies to the service that the caller is connected.
    connected: usize,
    gone: bool,
    /// The number of these replies before the caller had disconnected.
    connected_before: usize,
}

/// Monitors all messages on the bus.
struct BusObserver {
    records: Arc<Mutex<HashMap<String, CallerRecord>>>,
    /// The callers of `Acquire`, in order.
    callers: Arc<Mutex<Vec<String>>>,
    news: watch::Receiver<()>,
    _connection: Connection,
}

impl BusObserver {
    async fn at(fixture: &Fixture) -> Self {
        let connection = fixture.connection().await;
        let monitoring = MonitoringProxy::new(&connection).await.unwrap();
        let mut stream = MessageStream::from(&connection);
        monitoring.become_monitor(&[], 0).await.unwrap();
        let (seen, news) = watch::channel(());
        let observer = Self {
            records: Arc::default(),
            callers: Arc::default(),
            news,
            _connection: connection.clone(),
        };
        let (records, callers) = (Arc::clone(&observer.records), Arc::clone(&observer.callers));
        tokio::spawn(async move {
            let mut asked = HashMap::new();
            while let Some(Ok(message)) = stream.next().await {
                note(&message, &mut asked, &records, &callers);
                seen.send_replace(());
            }
        });
        observer
    }

    fn record_of(&self, caller: &str) -> CallerRecord {
        self.records.lock().unwrap().get(caller).cloned().unwrap_or_default()
    }

    /// Waits until the bus has reported that the caller has disconnected.
    async fn wait_until_gone(&self, caller: &str) -> CallerRecord {
        self.sees("the disconnect", || Some(self.record_of(caller)).filter(|records| records.gone))
            .await
    }

    /// Returns the caller that follows the first `before` callers.
    async fn wait_for_call(&self, before: usize) -> String {
        self.sees("the call", || self.callers.lock().unwrap().get(before).cloned()).await
    }

    async fn sees<T>(&self, what: &str, seen: impl Fn() -> Option<T>) -> T {
        let mut news = self.news.clone();
        let sees = async {
            loop {
                if let Some(seen) = seen() {
                    return seen;
                }
                news.changed().await.unwrap();
            }
        };
        within(what, sees).await
    }
}

/// Records the messages about callers. `asked` has unanswered questions, by sender and serial number.
fn note(
    message: &Message,
    asked: &mut HashMap<(String, u32), String>,
    records: &Mutex<HashMap<String, CallerRecord>>,
    callers: &Mutex<Vec<String>>,
) {
    let header = message.header();
    let word = |name: Option<String>| name.unwrap_or_default();
    let member = word(header.member().map(ToString::to_string));
    let body = message.body();
    match (message.message_type(), member.as_str()) {
        (Type::MethodCall, "GetConnectionCredentials") => {
            let Ok(about) = body.deserialize::<String>() else { return };
            let asker = word(header.sender().map(ToString::to_string));
            asked.insert((asker, message.primary_header().serial_num().get()), about);
        }
        (Type::MethodCall, "Acquire") => {
            callers.lock().unwrap().push(word(header.sender().map(ToString::to_string)));
        }
        (Type::MethodReturn | Type::Error, _) => {
            let asker = word(header.destination().map(ToString::to_string));
            let Some(number) = header.reply_serial() else { return };
            let from_bus = header.sender().is_some_and(|name| name == "org.freedesktop.DBus");
            if !from_bus {
                return;
            }
            if let Some(about) = asked.remove(&(asker, number.get()))
                && message.message_type() == Type::MethodReturn
            {
                records.lock().unwrap().entry(about).or_default().connected += 1;
            }
        }
        (Type::Signal, "NameOwnerChanged") => {
            let Ok((name, _, new)) = body.deserialize::<(String, String, String)>() else { return };
            if new.is_empty() {
                let mut records = records.lock().unwrap();
                let records = records.entry(name).or_default();
                (records.gone, records.connected_before) = (true, records.connected);
            }
        }
        _ => {}
    }
}

/// A waiting caller that disconnects.
enum Waiter {
    /// A connection that ends, with what has been read of it by then.
    Connection(UnixStream, tokio::task::JoinHandle<Option<Vec<OwnedObjectPath>>>),
    Process(Process),
}

impl Waiter {
    async fn connection(fixture: &Fixture, path: OwnedObjectPath, disk: &Path) -> (Self, String) {
        let stream = UnixStream::connect(fixture.bus().address().split_once('=').unwrap().1);
        let stream = stream.unwrap();
        let end = stream.try_clone().unwrap();
        let builder = zbus::connection::Builder::unix_stream(stream).user_id(0);
        let connection = within("Hello", builder.build()).await.unwrap();
        let name = connection.unique_name().unwrap().to_string();
        let disk = disk.to_path_buf();
        let call = tokio::spawn(async move {
            let owner = owner(&connection, path).await;
            owner.acquire(&[exclusive(&disk)], option("timeout-usec", LONG)).await.ok()
        });
        (Self::Connection(end, call), name)
    }

    fn process(fixture: &Fixture, path: &OwnedObjectPath, disk: &Path) -> Self {
        let mut command = fixture.command("busctl").into_std();
        command.arg(format!("--address={}", fixture.address())).arg("--timeout=1000").arg("call");
        command.args(["org.vmlockd1", path.as_str(), "org.vmlockd1.Owner", "Acquire"]);
        command.args(["a(ss)a{sv}", "1", disk.to_str().unwrap(), "exclusive"]);
        command.args(["1", "timeout-usec", "t", &LONG.to_string()]);
        command.stdout(std::process::Stdio::null());
        Self::Process(Process::start("busctl", command, &fixture.dir().join("busctl.log")))
    }

    /// Disconnects or kills the caller after a delay.
    fn end(&self, after: Duration) {
        thread::sleep(after);
        match self {
            // Messages that have arrived by then can be read, but the caller is disconnected.
            Self::Connection(end, _) => end.shutdown(Shutdown::Write).unwrap(),
            Self::Process(process) => process.signal(Signal::SIGKILL),
        }
    }

    /// Returns the locks of the reply, if one was received.
    async fn answer(self) -> Option<Vec<OwnedObjectPath>> {
        match self {
            Self::Connection(_, call) => within("its end", call).await.unwrap(),
            Self::Process(process) => {
                within("its end", process.ended()).await;
                None
            }
        }
    }
}

/// Disconnects a caller around the release. Returns whether its owner got the lock.
async fn disconnect_one(
    fixture: &Fixture,
    observer: &BusObserver,
    (web1, web2): (&TestVm, &TestVm),
    held: &mut Vec<OwnedObjectPath>,
    disk: &Path,
    (rng, usual, kill): (&Rng, Duration, bool),
) -> bool {
    let bus = web1.owner.inner().connection();
    let before = observer.callers.lock().unwrap().len();
    let (waiter, name) = if kill {
        (Waiter::process(fixture, &web2.path(), disk), None)
    } else {
        let (waiter, name) = Waiter::connection(fixture, web2.path(), disk).await;
        (waiter, Some(name))
    };
    until_waiting(bus, 1).await;
    let called = observer.wait_for_call(before).await;
    assert!(name.is_none_or(|name| name == called));
    // From before the release to well after the answer.
    let (release, death) = (usual / 5, usual * u32::try_from(rng.below(200)).unwrap() / 100);
    let ending = tokio::task::spawn_blocking(move || {
        waiter.end(death);
        waiter
    });
    tokio::task::spawn_blocking(move || thread::sleep(release)).await.unwrap();
    web1.release(&std::mem::take(held)).await.unwrap();
    let answer = ending.await.unwrap().answer().await;
    let records = observer.wait_until_gone(&called).await;
    // The first question follows the call, the second precedes the reply.
    let was_granted = records.connected_before > 1;
    assert!(
        was_granted || answer.is_none(),
        "a reply to a caller that was not connected: {records:?}"
    );
    // The next caller gets it once no other holds it, tries to lock it, or waits for it.
    let next = async {
        loop {
            match web1.acquire(&[exclusive(disk)]).await {
                Ok(locks) => {
                    assert!(!was_granted, "the caller was connected, and got no lock: {records:?}");
                    return locks;
                }
                Err(refused) => assert_refused(&refused, "LockHeld", "web2"),
            }
            if was_granted && let [_, ..] = &*web2.locks().await {
                return Vec::new();
            }
        }
    };
    *held = within("either of the two has it", next).await;
    if was_granted {
        let locks = web2.locks().await;
        assert!(answer.is_none_or(|answer| answer == locks));
        web2.release(&locks).await.unwrap();
        *held = web1.acquire(&[exclusive(disk)]).await.unwrap();
    }
    until_waiting(bus, 0).await;
    assert!(web2.locks().await.is_empty());
    was_granted
}

/// Measures the time from a release to the reply to a connected caller; the median.
async fn usual(
    fixture: &Fixture,
    (web1, web2): (&TestVm, &TestVm),
    held: &mut Vec<OwnedObjectPath>,
    disk: &Path,
) -> Duration {
    let mut times = Vec::new();
    for _ in 0..LIVES {
        let (waiter, _) = Waiter::connection(fixture, web2.path(), disk).await;
        until_waiting(web1.owner.inner().connection(), 1).await;
        let begun = Instant::now();
        web1.release(&std::mem::take(held)).await.unwrap();
        let locks = waiter.answer().await.unwrap();
        times.push(begun.elapsed());
        web2.release(&locks).await.unwrap();
        *held = web1.acquire(&[exclusive(disk)]).await.unwrap();
    }
    times.sort_unstable();
    times[LIVES / 2]
}

#[tokio::test]
async fn waits_end_with_the_bus() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (disk, other) = (fixture.raw_of(0, "disk"), fixture.raw_of(0, "other"));
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let kept = web2.acquire(&[exclusive(&other)]).await.unwrap();
    let mut waits = Vec::new();
    for n in 0..10 {
        let connection = fixture.connection().await;
        let owner = owner(&connection, web2.path()).await;
        let disk = disk.clone();
        waits.push(tokio::spawn(async move {
            owner.acquire(&[exclusive(&disk)], option("timeout-usec", LONG)).await
        }));
        until_waiting(&bus, n + 1).await;
    }
    fixture.bus().stop();
    for wait in waits {
        within("its end", wait).await.unwrap().unwrap_err();
    }
    fixture.bus().start().await;
    fixture.bus().watch().await.owned_by(fixture.daemon().pid()).await;
    let bus = fixture.connection().await;
    until_waiting(&bus, 0).await;
    let (web1, web2) = (owner(&bus, web1.path()).await, owner(&bus, web2.path()).await);
    web1.release(&held, crate::methods::none()).await.unwrap();
    // The next caller waits for no other.
    let web3 = TestVm::open(&bus, "web3").await;
    web3.acquire(&[exclusive(&disk)]).await.unwrap();
    assert_eq!(web2.locks().await.unwrap(), kept);
}

/// A load of half a minute.
mod host {
    use super::*;

    #[tokio::test]
    async fn a_thousand_callers_disconnect_around_the_release() {
        let (tries, every) = TRIES;
        let seed = seed("VMLOCKD_SOAK_SEED");
        println!("seed {seed}");
        let fixture = Fixture::builder().start().await;
        let (bus, other) = (fixture.connection().await, fixture.connection().await);
        let disk = fixture.raw_of(0, "disk");
        let observer = BusObserver::at(&fixture).await;
        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&other, "web2").await);
        let mut held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let rng = Rng::new(seed, 0);
        let usual = usual(&fixture, (&web1, &web2), &mut held, &disk).await;
        let (mut granted, mut refused) = (0, 0);
        for n in 0..tries {
            let how = (&rng, usual, n % every == 0);
            let machines = (&web1, &web2);
            if disconnect_one(&fixture, &observer, machines, &mut held, &disk, how).await {
                granted += 1;
            } else {
                refused += 1;
            }
        }
        println!("{granted} got the lock, {refused} got none; a reply took {usual:?}");
        assert!(
            granted > tries / 20 && refused > tries / 20,
            "{granted} and {refused}: not around it"
        );
        web1.release(&held).await.unwrap();
        assert_free(&disk);
    }
}

//! Whoever leaves before he has his answer has got nothing.
//!
//! What can be said exactly: before a caller who waited is answered, the bus is asked whether he is
//! there. If the bus says that he has left, all is given back; if it says that he is there, the
//! answer is sent, and what is in it is his owner's. He may leave in the very moment between the
//! two, and nobody can tell such an answer from one that he got. So the judge here is the bus: a
//! monitor sees in its own order when it said so, and when the caller was gone.

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

/// How often somebody dies, and every how manyth of them is a process that is killed.
const TRIES: (usize, usize) = (1000, 20);
/// How often it is tried how long it takes from a release to an answer.
const LIVES: usize = 20;

/// What the bus has said of one caller.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Said {
    /// The service's questions for him that were answered: he is there.
    here: usize,
    gone: bool,
    /// The same when he was gone.
    here_before: usize,
}

/// Sees all that passes the bus.
struct BusObserver {
    said: Arc<Mutex<HashMap<String, Said>>>,
    /// Who has called `Acquire`, one after the other.
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
        let judge = Self {
            said: Arc::default(),
            callers: Arc::default(),
            news,
            _connection: connection.clone(),
        };
        let (said, callers) = (Arc::clone(&judge.said), Arc::clone(&judge.callers));
        tokio::spawn(async move {
            let mut asked = HashMap::new();
            while let Some(Ok(message)) = stream.next().await {
                note(&message, &mut asked, &said, &callers);
                seen.send_replace(());
            }
        });
        judge
    }

    fn said_of(&self, caller: &str) -> Said {
        self.said.lock().unwrap().get(caller).cloned().unwrap_or_default()
    }

    /// Returns once the bus has said that he is gone.
    async fn saw_leaving(&self, caller: &str) -> Said {
        self.sees("he is gone", || Some(self.said_of(caller)).filter(|said| said.gone)).await
    }

    /// Returns who has called, after so many others.
    async fn saw_call(&self, before: usize) -> String {
        self.sees("his call", || self.callers.lock().unwrap().get(before).cloned()).await
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

/// Notes what is said of callers. `asked` are questions without an answer, by who asks and number.
fn note(
    message: &Message,
    asked: &mut HashMap<(String, u32), String>,
    said: &Mutex<HashMap<String, Said>>,
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
                said.lock().unwrap().entry(about).or_default().here += 1;
            }
        }
        (Type::Signal, "NameOwnerChanged") => {
            let Ok((name, _, new)) = body.deserialize::<(String, String, String)>() else { return };
            if new.is_empty() {
                let mut said = said.lock().unwrap();
                let said = said.entry(name).or_default();
                (said.gone, said.here_before) = (true, said.here);
            }
        }
        _ => {}
    }
}

/// Somebody who waits, and dies of it.
enum Mortal {
    /// A connection that ends, with what has been read of it by then.
    Connection(UnixStream, tokio::task::JoinHandle<Option<Vec<OwnedObjectPath>>>),
    Process(Process),
}

impl Mortal {
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

    /// Kills him after so long, whatever he does.
    fn die(&self, after: Duration) {
        thread::sleep(after);
        match self {
            // It can be read what has arrived by then, but he is no longer there.
            Self::Connection(end, _) => end.shutdown(Shutdown::Write).unwrap(),
            Self::Process(process) => process.signal(Signal::SIGKILL),
        }
    }

    /// The answer, if he got one.
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

/// Dies somewhere around the release; whether what was waited for came to be his owner's.
async fn one_dies(
    fixture: &Fixture,
    judge: &BusObserver,
    (web1, web2): (&TestVm, &TestVm),
    held: &mut Vec<OwnedObjectPath>,
    disk: &Path,
    (rng, usual, kill): (&Rng, Duration, bool),
) -> bool {
    let bus = web1.owner.inner().connection();
    let before = judge.callers.lock().unwrap().len();
    let (mortal, name) = if kill {
        (Mortal::process(fixture, &web2.path(), disk), None)
    } else {
        let (mortal, name) = Mortal::connection(fixture, web2.path(), disk).await;
        (mortal, Some(name))
    };
    until_waiting(bus, 1).await;
    let called = judge.saw_call(before).await;
    assert!(name.is_none_or(|name| name == called));
    // From before the release to well after the answer.
    let (release, death) = (usual / 5, usual * u32::try_from(rng.below(200)).unwrap() / 100);
    let dying = tokio::task::spawn_blocking(move || {
        mortal.die(death);
        mortal
    });
    tokio::task::spawn_blocking(move || thread::sleep(release)).await.unwrap();
    web1.release(&std::mem::take(held)).await.unwrap();
    let answer = dying.await.unwrap().answer().await;
    let said = judge.saw_leaving(&called).await;
    // The first question was asked when he called, the second when there was something to tell.
    let was_told = said.here_before > 1;
    assert!(was_told || answer.is_none(), "an answer to one whom the bus did not know: {said:?}");
    // Who comes next gets it, once nobody holds it, tries for it, or waits for it any more.
    let next = async {
        loop {
            match web1.acquire(&[exclusive(disk)]).await {
                Ok(locks) => {
                    assert!(!was_told, "he was there, and has got nothing: {said:?}");
                    return locks;
                }
                Err(refused) => assert_refused(&refused, "LockHeld", "web2"),
            }
            if was_told && let [_, ..] = &*web2.locks().await {
                return Vec::new();
            }
        }
    };
    *held = within("either of the two has it", next).await;
    if was_told {
        let locks = web2.locks().await;
        assert!(answer.is_none_or(|answer| answer == locks));
        web2.release(&locks).await.unwrap();
        *held = web1.acquire(&[exclusive(disk)]).await.unwrap();
    }
    until_waiting(bus, 0).await;
    assert!(web2.locks().await.is_empty());
    was_told
}

/// How long it takes from a release to the answer of one who lives: the median.
async fn usual(
    fixture: &Fixture,
    (web1, web2): (&TestVm, &TestVm),
    held: &mut Vec<OwnedObjectPath>,
    disk: &Path,
) -> Duration {
    let mut times = Vec::new();
    for _ in 0..LIVES {
        let (waiter, _) = Mortal::connection(fixture, web2.path(), disk).await;
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
    // Whoever comes next is behind nobody.
    let web3 = TestVm::open(&bus, "web3").await;
    web3.acquire(&[exclusive(&disk)]).await.unwrap();
    assert_eq!(web2.locks().await.unwrap(), kept);
}

/// Tests that need root.
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
        let judge = BusObserver::at(&fixture).await;
        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&other, "web2").await);
        let mut held = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let rng = Rng::new(seed, 0);
        let usual = usual(&fixture, (&web1, &web2), &mut held, &disk).await;
        let (mut told, mut untold) = (0, 0);
        for n in 0..tries {
            let how = (&rng, usual, n % every == 0);
            let machines = (&web1, &web2);
            if one_dies(&fixture, &judge, machines, &mut held, &disk, how).await {
                told += 1;
            } else {
                untold += 1;
            }
        }
        println!("{told} were answered, {untold} got nothing; an answer took {usual:?}");
        assert!(told > tries / 20 && untold > tries / 20, "{told} and {untold}: not around it");
        web1.release(&held).await.unwrap();
        assert_free(&disk);
    }
}

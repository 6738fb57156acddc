//! The example clients in `examples/`, against the service on both message brokers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::process::Command;
use zbus::fdo::DBusProxy;
use zbus::names::{OwnedUniqueName, UniqueName};
use zbus::{Connection, ObjectPath, OwnedObjectPath};

use crate::cli::forged::name_of;
use crate::dbus_client::{TestVm, exclusive, lock, manager};
use crate::fixture::user::{GAMES, NOBODY, ROOT};
use crate::fixture::{Broker, Fixture, ForeignHolder, LockType, Tool, run, within};
use crate::methods::{OWNER, none};
use crate::refused_requests::{assert_free, assert_refused};
use crate::snapshot::{Listed, text};

const GONE: &str = "the service is gone; the lifeline keeps the owner";
const BACK: &str = "the service is back";

/// The orderly end of a client.
#[derive(Debug, Clone, Copy)]
enum End {
    Signal(Signal),
    Input,
}

/// An example, ready to be run.
#[derive(Debug)]
struct Example {
    /// The program and its first arguments.
    words: Vec<String>,
}

impl Example {
    /// Copies the examples to where every user can read them, and builds the C program as its
    /// Makefile says.
    async fn new(fixture: &Fixture, language: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (from, dir) = (root.join("examples").join(language), fixture.dir().join("example"));
        fs::create_dir(&dir).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), dir.join(file.file_name())).unwrap();
        }
        let at = |name: &str| dir.join(name).display().to_string();
        let words = match language {
            "python" => vec!["/usr/bin/python3".to_owned(), at("lock-disks.py")],
            "javascript" => vec!["gjs".to_owned(), "-m".to_owned(), at("lock-disks.js")],
            _ => {
                let mut make = Command::new("make");
                make.arg("-C").arg(&dir).arg("CFLAGS=-O0 -Wall -Werror");
                make.arg(format!("INTERFACES={}", root.join("dbus").display()));
                make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
                run(make).await.ok();
                vec![at("lock-disks")]
            }
        };
        Self { words }
    }

    /// Returns the command that runs it for these words and this user.
    fn command(&self, fixture: &Fixture, user: u32, words: &[&str]) -> Command {
        let mut command = if user == ROOT {
            fixture.command(&self.words[0])
        } else {
            fixture.command_as(user, &self.words[0])
        };
        command.args(&self.words[1..]).args(words);
        command
    }
}

/// A client that has locked its disks.
struct Client {
    tool: Tool,
    disks: [PathBuf; 2],
    owner: String,
    locks: Vec<OwnedObjectPath>,
}

impl Client {
    async fn start(fixture: &Fixture, example: &Example, user: u32) -> Self {
        let disks = ["first", "second"].map(|name| fixture.raw_of(user, name));
        let mut words = disks.each_ref().map(|disk| disk.to_str().unwrap()).to_vec();
        if user != ROOT {
            words.insert(0, "--session");
        }
        let command = example.command(fixture, user, &words);
        let mut tool = Tool::new(command, &fixture.dir().join("client.log"));
        let opened = tool.line().await;
        let owner = opened.strip_prefix("opened ").unwrap_or_else(|| panic!("{opened}")).to_owned();
        let mut locks = Vec::new();
        for disk in &disks {
            let locked = tool.line().await;
            let path = locked.strip_prefix(&format!("locked {} as ", disk.display()));
            let path = path.unwrap_or_else(|| panic!("{locked}"));
            locks.push(ObjectPath::try_from(path).unwrap().into());
        }
        Self { tool, disks, owner, locks }
    }

    /// Both disks are locked exclusively for its owner.
    async fn holds_both(&self, bus: &Connection) {
        let rows = manager(bus).await.list_locks(none()).await.unwrap();
        assert_eq!(rows.len(), 2, "{rows:?}");
        for (row, disk) in rows.iter().zip(&self.disks) {
            let of = |key| text(row, key);
            assert_eq!(of("owner"), self.owner);
            assert_eq!((of("resource").as_str(), of("mode").as_str()), exclusive(disk));
        }
    }

    /// The next line of its output is about this disk.
    async fn prints(&mut self, before: &str, disk: usize, after: &str) {
        let expected = format!("{before} {}{after}", self.disks[disk].display());
        assert_eq!(self.tool.line().await, expected);
    }

    /// It notices that the service is there again.
    async fn sees_it_back(&mut self) {
        let mut line = self.tool.line().await;
        if line == GONE {
            line = self.tool.line().await;
        }
        assert_eq!(line, BACK);
    }

    /// Ends it, and nothing is locked any more.
    async fn end(mut self, bus: &Connection, end: End) {
        match end {
            End::Signal(signal) => self.tool.signal(signal),
            End::Input => self.tool.end_input(),
        }
        assert_eq!(self.tool.line().await, "released all locks");
        assert_eq!(self.tool.ended().await.code(), Some(0), "{}", self.tool.process.stderr());
        assert!(Listed::by(bus).await.owners.is_empty());
        self.disks.iter().for_each(|disk| assert_free(disk));
    }
}

/// Sends signals to one connection that look like the service's and the bus's, and returns once
/// the bus has delivered them.
async fn forge(forger: &Connection, victim: &UniqueName<'_>, client: &Client) {
    let owner = ObjectPath::try_from(client.owner.as_str()).unwrap();
    for member in ["LockLost", "LockReleased"] {
        let body = (&client.locks[0], client.disks[0].to_str().unwrap(), "forged");
        forger.emit_signal(Some(victim), &owner, OWNER, member, &body).await.unwrap();
    }
    let name = forger.unique_name().unwrap().as_str();
    let (bus, path) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
    let body = ("org.vmlockd1", "", name);
    forger.emit_signal(Some(victim), path, bus, "NameOwnerChanged", &body).await.unwrap();
    DBusProxy::new(forger).await.unwrap().get_id().await.unwrap();
}

async fn keeps_its_disks_locked(language: &str, broker: Broker, end: End) {
    let fixture = Fixture::builder().broker(broker).start().await;
    let (bus, daemon) = (fixture.connection().await, fixture.daemon());
    let example = Example::new(&fixture, language).await;
    let mut client = Client::start(&fixture, &example, ROOT).await;
    client.holds_both(&bus).await;
    let other = TestVm::open(&bus, "other").await;
    let refused = other.acquire(&[exclusive(&client.disks[0])]).await.unwrap_err();
    assert_refused(&refused, "LockHeld", "VM \"example\"");
    other.owner.close(none()).await.unwrap();

    // Only the service's signals count.
    let forger = fixture.connection_as(NOBODY).await;
    let victim: OwnedUniqueName = name_of(&bus, client.tool.process.pid()).await;
    forge(&forger, &victim, &client).await;
    lock(&bus, &client.locks[1]).await.release(none()).await.unwrap();
    client.prints("released", 1, ": released").await;

    // Nor do others count while the name has no owner.
    daemon.kill9().await;
    assert_eq!(client.tool.line().await, GONE);
    forge(&forger, &victim, &client).await;
    daemon.start_again().await;
    assert_eq!(client.tool.line().await, BACK);
    client.prints("still locked", 0, "").await;
    client.prints("released", 1, "").await;

    daemon.signal(Signal::SIGUSR1);
    client.sees_it_back().await;
    client.prints("still locked", 0, "").await;
    client.prints("released", 1, "").await;

    // Another program locks the disk while no service holds it.
    let file = lock(&bus, &client.locks[0]).await.lock_file().await.unwrap();
    daemon.kill9().await;
    let foreign_holder = ForeignHolder::hold(Path::new(&file), LockType::Posix, true).unwrap();
    daemon.start_again().await;
    client.sees_it_back().await;
    let lost = format!("lost {}: taken", client.disks[0].display());
    while client.tool.line().await != lost {}
    foreign_holder.release();

    client.end(&bus, end).await;
}

async fn on_both_brokers(language: &str) {
    keeps_its_disks_locked(language, Broker::DbusDaemon, End::Signal(Signal::SIGTERM)).await;
    keeps_its_disks_locked(language, Broker::DbusBroker, End::Signal(Signal::SIGINT)).await;
}

/// A disk that another owner has locked is refused with the holder's name, and nothing stays
/// locked.
async fn is_refused(language: &str) {
    for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
        let fixture = Fixture::builder().broker(broker).start().await;
        let bus = fixture.connection().await;
        let example = Example::new(&fixture, language).await;
        let disks = ["first", "second"].map(|name| fixture.raw_of(ROOT, name));
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&disks[1])]).await.unwrap();
        let words = disks.each_ref().map(|disk| disk.to_str().unwrap());
        let ran = run(example.command(&fixture, ROOT, &words)).await;
        assert_eq!(ran.status.code(), Some(75), "{ran:?}");
        let expected = format!("disk {} is locked exclusively by VM \"web1\" (", words[1]);
        assert!(ran.stderr.starts_with(&expected), "{ran:?}");
        let ended = async { while Listed::by(&bus).await.owners.len() != 1 {} };
        within("the client's owner ends", ended).await;
        assert_free(&disks[0]);
        // The whole output is read, and there is no other command line.
        let mut wrong = example.command(&fixture, ROOT, &words[..1]);
        wrong.stdin(Stdio::null());
        assert_eq!(run(wrong).await.status.code(), Some(64));
    }
}

/// A user's own service, and a client whose standard input ends.
async fn on_a_session_bus(language: &str) {
    let fixture = Fixture::builder().session_of(GAMES).start().await;
    let bus = fixture.connection().await;
    let example = Example::new(&fixture, language).await;
    let client = Client::start(&fixture, &example, GAMES).await;
    client.holds_both(&bus).await;
    client.end(&bus, End::Input).await;
}

/// The tests of one language.
macro_rules! language {
    ($name:ident) => {
        mod $name {
            const NAME: &str = stringify!($name);

            #[tokio::test]
            async fn keeps_its_disks_locked_on_both_brokers() {
                super::on_both_brokers(NAME).await;
            }

            #[tokio::test]
            async fn is_refused_a_locked_disk() {
                super::is_refused(NAME).await;
            }

            #[tokio::test]
            async fn works_on_a_session_bus() {
                super::on_a_session_bus(NAME).await;
            }
        }
    };
}

language!(python);
language!(c);
language!(javascript);

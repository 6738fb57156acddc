//! Two users on one bus: one has a secret, the other records every byte that it receives.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use vmlockd::client::{MANAGER_PATH, SERVICE};
use zbus::fdo::DBusProxy;
use zbus::message::Type;
use zbus::wire::Structure;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath};

use crate::dbus_client::{Refused, TestVm, exclusive, option};
use crate::fixture::user::{Account, GAMES, NOBODY, ROOT};
use crate::fixture::{Answer, Broker, Fixture, Process, mortal, polkit, within};
use crate::methods::none;

/// The user with a secret. Its number does not occur by accident.
pub(super) const FIRST: u32 = NOBODY;
/// The user that may not know it.
pub(super) const SECOND: u32 = GAMES;

/// In the names of all that is secret.
const SECRET: &str = "topsecret";
const UUID: &str = "5e6f1a2b-91c4-4d0e-8f27-b35ad09c6e71";

/// The tests of one user call more often than one user may. Other keys go before these.
pub(super) const PRIVATE: &str = "privacy = \"private\"\n[limits]\ncalls_per_second = 100000\n\
                                  calls_per_second_per_connection = 100000\n";

/// Whether polkit is asked about seeing others.
pub(super) fn is_view(call: &crate::fixture::Call) -> bool {
    call.action == "org.vmlockd1.view-foreign"
}

/// The fixture, and what the first user has in it.
pub(super) struct Scenario {
    pub(super) fixture: Fixture,
    pub(super) first: Connection,
    pub(super) secret: TestVm,
    pub(super) lock: OwnedObjectPath,
    /// The process that the owner is bound to.
    process: Process,
    /// The first user's disk, by the name that it has used.
    pub(super) path: PathBuf,
    /// Another name of the file.
    pub(super) shared: PathBuf,
}

impl Scenario {
    /// Everything is permitted by polkit but to see others, and to have the service load its
    /// configuration or replace itself.
    pub(super) async fn set_up(broker: Broker, config: &str) -> Self {
        let builder = Fixture::builder().broker(broker).polkit(polkit::Choice::Mock).folder(SECRET);
        let fixture = builder.config(config).start().await;
        fixture.polkit().mock().decide(|call| {
            let denied = is_view(call) || call.action == "org.vmlockd1.reload";
            if denied { Answer::Deny } else { Answer::Allow }
        });
        let path = fixture.raw_of(FIRST, &format!("{SECRET}/disk"));
        let shared = fixture.dir().join("shared");
        fs::hard_link(&path, &shared).unwrap();
        let first = fixture.connection_as(FIRST).await;
        let secret = TestVm::open_with(&first, UUID, SECRET, option("why", SECRET)).await.unwrap();
        let mut command = mortal(Some(&Account::of(FIRST)), "sh");
        command.args(["-c", "echo ready; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = Process::start("guest", command, &fixture.dir().join("guest.log"));
        process.first_output().await;
        secret.owner.bind_pid(process.pid(), none()).await.unwrap();
        let lock = secret.acquire(&[exclusive(&path)]).await.unwrap().remove(0);
        Self { fixture, first, secret, lock, process, path, shared }
    }

    /// A second machine of the first user's.
    pub(super) async fn another(&self) -> TestVm {
        TestVm::open(&self.first, &format!("{SECRET}-2")).await
    }

    /// Fails if any of the messages has any of the first user's secrets in it.
    pub(super) fn assert_clean(&self, messages: &[Message]) {
        for message in messages {
            self.assert_is_clean(message);
        }
    }

    fn assert_is_clean(&self, message: &Message) {
        let bytes = message.data().bytes();
        let pid = self.process.pid();
        let texts = [
            SECRET.to_owned(),
            UUID.to_owned(),
            UUID.replace('-', "_"),
            "nobody".to_owned(),
            FIRST.to_string(),
            format!("pid {pid}"),
            self.lock.to_string(),
        ];
        for text in texts {
            let found = bytes.windows(text.len()).any(|part| part == text.as_bytes());
            // A path ends with its number.
            assert!(!found, "'{text}' in {message:?}: {}", String::from_utf8_lossy(bytes));
        }
        for (what, number) in [("uid", FIRST), ("pid", pid)] {
            let found = bytes.chunks_exact(4).any(|part| part == number.to_ne_bytes());
            assert!(!found, "the {what} in {message:?}: {}", String::from_utf8_lossy(bytes));
        }
    }

    /// A connection of a user that records what it receives, and gets all signals that it may get.
    pub(super) async fn recorded(&self, uid: u32) -> Recorded {
        let connection = if uid == ROOT {
            self.fixture.connection().await
        } else {
            self.fixture.connection_as(uid).await
        };
        let mut messages = MessageStream::from(&connection);
        let (seen, recorder) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                if seen.send(message).is_err() {
                    break;
                }
            }
        });
        let rule = MatchRule::builder().msg_type(Type::Signal).sender(SERVICE).build().unwrap();
        DBusProxy::new(&connection).await.unwrap().add_match_rule(rule).await.unwrap();
        let mut recorded = Recorded { connection, messages: recorder };
        recorded.sync().await;
        recorded
    }
}

/// A connection, and what it has received.
pub(super) struct Recorded {
    pub(super) connection: Connection,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl Recorded {
    /// Everything that has been received since the last call. The service has sent what it had to
    /// send, since it answers in order; the call also makes it send signals to this connection.
    pub(super) async fn sync(&mut self) -> Vec<Message> {
        // A listing method waits for pending publications.
        let none = Structure::from((none(),));
        let service = Some(SERVICE);
        for _ in 0..2 {
            let lists = self.connection.call_method(
                service,
                MANAGER_PATH,
                Some("org.vmlockd1.Manager"),
                "ListOwners",
                &none,
            );
            lists.await.unwrap();
        }
        let peer = Some("org.freedesktop.DBus.Peer");
        let last = self.connection.call_method(service, MANAGER_PATH, peer, "Ping", &()).await;
        let last = last.unwrap().header().reply_serial();
        let mut all = Vec::new();
        within("the reply is recorded", async {
            loop {
                let message = self.messages.recv().await.unwrap();
                let is_last = message.header().reply_serial() == last;
                all.push(message);
                if is_last {
                    break;
                }
            }
        })
        .await;
        all
    }

    /// Calls a method without arguments, or with wrong ones.
    pub(super) async fn call(
        &self,
        path: &str,
        interface: Option<&str>,
        member: &str,
        body: &Structure<'_>,
    ) -> Result<Message, Refused> {
        Ok(self.connection.call_method(Some(SERVICE), path, interface, member, body).await?)
    }
}

/// The signals of the service among these, as interface, member and path.
pub(super) fn signals(messages: &[Message]) -> Vec<(String, String, String)> {
    let all = messages.iter().filter_map(|message| {
        let header = message.header();
        if header.message_type() != Type::Signal || header.interface()? == "org.freedesktop.DBus" {
            return None;
        }
        let member = header.member()?.to_string();
        Some((header.interface()?.to_string(), member, header.path()?.to_string()))
    });
    all.collect()
}

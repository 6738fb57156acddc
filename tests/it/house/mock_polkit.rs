//! A polkit that does as the test says, and remembers what it was asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{mpsc, oneshot};
use zbus::{Connection, OwnedVariant, connection, interface, message::Header};

use super::{Bus, polkit, within};

/// How a question is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Yes.
    Allow,
    /// No.
    #[default]
    Deny,
    /// Not without a password, which this caller was not to be asked for or could not be.
    Challenge,
    /// The user was asked for a password and closed the dialog.
    Dismissed,
    /// An error, as polkit gives for an action it does not know.
    Error,
    /// Nothing, until [`Mock::release`], a cancellation, or for ever: a dialog that stays open.
    Hang,
    /// Nothing, and polkit leaves the bus: a crash while asked.
    Vanish,
}

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    number: usize,
    /// Who asked: a unique name.
    pub(crate) sender: String,
    /// About whom: `system-bus-name`, unless somebody has made a mistake.
    pub(crate) subject_kind: String,
    pub(crate) subject: HashMap<String, OwnedVariant>,
    pub(crate) action: String,
    pub(crate) details: HashMap<String, String>,
    /// 1: the user may be asked for a password.
    pub(crate) flags: u32,
    /// Empty: can't be cancelled.
    pub(crate) cancellation_id: String,
}

impl Call {
    /// The bus name that the question is about, if that is what it is about.
    pub(crate) fn subject_name(&self) -> Option<String> {
        self.subject.get("name")?.try_clone().ok()?.try_into().ok()
    }

    /// Whether the user may be asked for a password.
    pub(crate) fn interactive(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// The scripted polkit. It is on the bus until it is dropped or vanishes.
#[derive(Debug)]
pub(crate) struct Mock {
    bus: Arc<Bus>,
    script: Arc<Script>,
    connection: Mutex<Option<Connection>>,
    calls: tokio::sync::Mutex<mpsc::UnboundedReceiver<Call>>,
    cancelled: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
}

#[derive(Debug)]
struct Script {
    answer: Mutex<Box<dyn Choose>>,
    seen: Mutex<Vec<Call>>,
    calls: mpsc::UnboundedSender<Call>,
    cancelled: mpsc::UnboundedSender<String>,
    hanging: Mutex<HashMap<usize, (Call, oneshot::Sender<Reply>)>>,
}

trait Choose: Send {
    fn choose(&mut self, call: &Call) -> Answer;
}

impl<F: FnMut(&Call) -> Answer + Send> Choose for F {
    fn choose(&mut self, call: &Call) -> Answer {
        self(call)
    }
}

impl std::fmt::Debug for dyn Choose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a script")
    }
}

type Reply = Result<((bool, bool, HashMap<String, String>),), Error>;

/// polkit's own errors.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.PolicyKit1.Error")]
enum Error {
    #[zbus(error)]
    ZBus(zbus::Error),
    Failed(String),
    CancellationIdNotUnique(String),
}

impl Mock {
    /// Starts one on `bus`.
    pub(crate) async fn start(bus: &Arc<Bus>) -> Mock {
        let (calls, seen_calls) = mpsc::unbounded_channel();
        let (cancelled, seen_cancelled) = mpsc::unbounded_channel();
        let script = Script {
            answer: Mutex::new(Box::new(|_: &Call| Answer::default())),
            seen: Mutex::default(),
            calls,
            cancelled,
            hanging: Mutex::default(),
        };
        let mock = Mock {
            bus: bus.clone(),
            script: Arc::new(script),
            connection: Mutex::default(),
            calls: tokio::sync::Mutex::new(seen_calls),
            cancelled: tokio::sync::Mutex::new(seen_cancelled),
        };
        mock.come_back().await;
        mock
    }

    /// Comes to the bus, again after it has vanished.
    pub(crate) async fn come_back(&self) {
        let authority = Authority(self.script.clone());
        let builder = connection::Builder::address(self.bus.address().as_str())
            .replace_existing_names(false)
            .serve_at("/org/freedesktop/PolicyKit1/Authority", authority)
            .name(polkit::NAME);
        let connection = builder.build().await.expect("nobody else is polkit on this bus");
        *self.connection.lock().unwrap() = Some(connection);
    }

    /// From now on, answers every question like this.
    pub(crate) fn answer(&self, answer: Answer) {
        self.decide(move |_| answer);
    }

    /// From now on, answers every question as this function says.
    pub(crate) fn decide(&self, decide: impl FnMut(&Call) -> Answer + Send + 'static) {
        *self.script.answer.lock().unwrap() = Box::new(decide);
    }

    /// Waits for a question that no earlier call of this has returned.
    pub(crate) async fn next_call(&self) -> Call {
        let call = async { self.calls.lock().await.recv().await };
        within("polkit is asked", call).await.expect("the mock keeps the other end")
    }

    /// Waits for a cancellation; its id comes back.
    pub(crate) async fn next_cancellation(&self) -> String {
        let id = async { self.cancelled.lock().await.recv().await };
        within("polkit is told to stop", id).await.expect("the mock keeps the other end")
    }

    /// All questions so far.
    pub(crate) fn seen(&self) -> Vec<Call> {
        self.script.seen.lock().unwrap().clone()
    }

    /// Answers a hanging question after all. False: nobody waits for it any more.
    pub(crate) fn release(&self, call: &Call, answer: Answer) -> bool {
        let hanging = self.script.hanging.lock().unwrap().remove(&call.number);
        hanging.is_some_and(|(_, reply)| reply.send(plain(answer)).is_ok())
    }

    /// Leaves the bus.
    pub(crate) async fn vanish(&self) {
        let connection = self.connection.lock().unwrap().take();
        if let Some(connection) = connection {
            connection.close().await.expect("a connection can be closed");
        }
        self.script.hanging.lock().unwrap().clear();
    }
}

struct Authority(Arc<Script>);

#[interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Authority {
    #[allow(clippy::too_many_arguments, reason = "polkit's, and two of zbus's")]
    #[zbus(out_args("result"))]
    async fn check_authorization(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        subject: (String, HashMap<String, OwnedVariant>),
        action_id: String,
        details: HashMap<String, String>,
        flags: u32,
        cancellation_id: String,
        // Spelt out, for the macro reads words, not types.
    ) -> Result<((bool, bool, HashMap<String, String>),), Error> {
        let script = &self.0;
        let mut call = Call {
            number: 0,
            sender: header.sender().map(ToString::to_string).unwrap_or_default(),
            subject_kind: subject.0,
            subject: subject.1,
            action: action_id,
            details,
            flags,
            cancellation_id,
        };
        call.number = {
            let mut seen = script.seen.lock().unwrap();
            seen.push(call.clone());
            seen.len()
        };
        let answer = script.answer.lock().unwrap().choose(&call);
        // What can be released or cancelled is there before the test hears of the question.
        let hanging = (answer == Answer::Hang).then(|| script.hang(call.clone())).transpose()?;
        // The test may have stopped listening.
        let _ = script.calls.send(call);
        match (answer, hanging) {
            (_, Some(hanging)) => hanging.await.unwrap_or_else(|_| plain(Answer::Error)),
            (Answer::Vanish, None) => {
                connection.clone().close().await?;
                plain(Answer::Error)
            }
            (answer, None) => plain(answer),
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "zbus hands the header over")]
    fn cancel_check_authorization(
        &self,
        #[zbus(header)] header: Header<'_>,
        cancellation_id: String,
    ) -> Result<(), Error> {
        let script = &self.0;
        let sender = header.sender().map(ToString::to_string).unwrap_or_default();
        let call = script.find(&sender, &cancellation_id);
        let hanging = call.and_then(|number| script.hanging.lock().unwrap().remove(&number));
        let _ = script.cancelled.send(cancellation_id);
        let Some((_, reply)) = hanging else {
            return Err(Error::Failed("no such cancellation id for this caller".to_owned()));
        };
        // A plain no, without an error: so does the real one.
        let _ = reply.send(plain(Answer::Deny));
        Ok(())
    }
}

impl Script {
    fn hang(&self, call: Call) -> Result<oneshot::Receiver<Reply>, Error> {
        if !call.cancellation_id.is_empty()
            && self.find(&call.sender, &call.cancellation_id).is_some()
        {
            return Err(Error::CancellationIdNotUnique(call.cancellation_id));
        }
        let (reply, hanging) = oneshot::channel();
        self.hanging.lock().unwrap().insert(call.number, (call, reply));
        Ok(hanging)
    }

    /// The hanging question of this caller with this cancellation id.
    fn find(&self, sender: &str, id: &str) -> Option<usize> {
        let hanging = self.hanging.lock().unwrap();
        let same = |call: &Call| call.sender == sender && call.cancellation_id == id;
        hanging.iter().find(|(_, (call, _))| same(call)).map(|(number, _)| *number)
    }
}

fn plain(answer: Answer) -> Reply {
    let no_details = HashMap::new();
    match answer {
        Answer::Allow => Ok(((true, false, no_details),)),
        Answer::Deny => Ok(((false, false, no_details),)),
        Answer::Challenge => Ok(((false, true, no_details),)),
        Answer::Dismissed => {
            let dismissed = ("polkit.dismissed".to_owned(), "true".to_owned());
            Ok(((false, false, HashMap::from([dismissed])),))
        }
        Answer::Error | Answer::Hang | Answer::Vanish => {
            Err(Error::Failed("the action is not registered".to_owned()))
        }
    }
}

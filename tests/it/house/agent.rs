//! An authentication agent: what would show a password dialog on a desktop.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
};

use tokio::sync::{mpsc, oneshot};
use zbus::{Connection, OwnedVariant, Variant, connection, interface};

use super::{Bus, polkit, within};

const AUTHORITY: (&str, &str) =
    ("/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority");

/// A dialog that polkit wants shown. Dropping it closes it without a password.
#[derive(Debug)]
pub(crate) struct Dialog {
    pub(crate) action: String,
    /// The text, with the details filled in.
    pub(crate) message: String,
    pub(crate) icon: String,
    pub(crate) details: HashMap<String, String>,
    cookie: String,
    identities: Vec<Identity>,
    answer: oneshot::Sender<bool>,
}

type Identity = (String, HashMap<String, OwnedVariant>);

impl Dialog {
    /// As if the right password had been typed.
    pub(crate) async fn grant(self, agent: &Agent) {
        let identity = self.identities.first().expect("polkit names who may say yes");
        // polkit believes this because root says it, as its own setuid program would be.
        agent.call("AuthenticationAgentResponse2", &(0_u32, &self.cookie, identity)).await;
        // Somebody who is gone does not want to know.
        let _ = self.answer.send(true);
    }

    /// As if the dialog had been closed.
    pub(crate) fn dismiss(self) {
        drop(self.answer);
    }

    /// Waits until polkit takes the dialog away: the check was cancelled.
    pub(crate) async fn withdrawn(&mut self) {
        within("polkit withdraws the dialog", self.answer.closed()).await;
    }
}

/// The agent for everything that one process does on the bus.
#[derive(Debug)]
pub(crate) struct Agent {
    connection: Connection,
    dialogs: tokio::sync::Mutex<mpsc::UnboundedReceiver<Dialog>>,
}

impl Agent {
    /// Registers an agent for the process `pid`, with a real polkit.
    ///
    /// Agents mostly serve a login session, but there is none here to be had.
    pub(crate) async fn for_process(bus: &Arc<Bus>, pid: u32) -> Agent {
        let (dialogs, shown) = mpsc::unbounded_channel();
        let listener = Listener { dialogs, open: Mutex::default() };
        let builder = connection::Builder::address(bus.address().as_str());
        let connection = builder.serve_at("/agent", listener).build().await;
        let connection = connection.expect("a connection for the agent");
        let agent = Agent { connection, dialogs: tokio::sync::Mutex::new(shown) };
        let start_time = start_time(pid);
        let subject =
            HashMap::from([("pid", Variant::from(pid)), ("start-time", Variant::from(start_time))]);
        agent
            .call("RegisterAuthenticationAgent", &(("unix-process", subject), "C", "/agent"))
            .await;
        agent
    }

    /// Waits until polkit wants a dialog shown.
    pub(crate) async fn next_dialog(&self) -> Dialog {
        let dialog = async { self.dialogs.lock().await.recv().await };
        within("polkit wants a password", dialog).await.expect("the agent keeps the other end")
    }

    /// Whether polkit has wanted no dialog that nobody has seen.
    pub(crate) async fn idle(&self) -> bool {
        self.dialogs.lock().await.is_empty()
    }

    async fn call<B>(&self, method: &str, body: &B)
    where
        B: serde::ser::Serialize + zbus::DynamicType,
    {
        let (path, interface) = AUTHORITY;
        let call =
            self.connection.call_method(Some(polkit::NAME), path, Some(interface), method, body);
        within(method, call).await.unwrap_or_else(|e| panic!("{method}: {e}"));
    }
}

/// When a process started, in the kernel's ticks since boot.
fn start_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The second field is the name in parentheses, and may itself contain spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')').expect("a name in parentheses");
    let field = rest.split_whitespace().nth(19).expect("the 22nd field of all");
    field.parse().expect("a number")
}

struct Listener {
    dialogs: mpsc::UnboundedSender<Dialog>,
    /// How to take an open dialog away, by its cookie.
    open: Mutex<HashMap<String, oneshot::Sender<()>>>,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.PolicyKit1.Error")]
enum Error {
    #[zbus(error)]
    ZBus(zbus::Error),
    Cancelled(String),
}

#[interface(name = "org.freedesktop.PolicyKit1.AuthenticationAgent")]
impl Listener {
    async fn begin_authentication(
        &self,
        action_id: String,
        message: String,
        icon: String,
        details: HashMap<String, String>,
        cookie: String,
        identities: Vec<Identity>,
    ) -> Result<(), Error> {
        let (answer, outcome) = oneshot::channel();
        let (withdraw, withdrawn) = oneshot::channel();
        self.open.lock().unwrap().insert(cookie.clone(), withdraw);
        let dialog =
            Dialog { action: action_id, message, icon, details, cookie, identities, answer };
        // The test may have dropped the agent; that too is a dialog nobody answers.
        let _ = self.dialogs.send(dialog);
        let granted = tokio::select! {
            answer = outcome => answer.unwrap_or(false),
            _ = withdrawn => false,
        };
        if granted {
            return Ok(());
        }
        Err(Error::Cancelled("the dialog was closed".to_owned()))
    }

    fn cancel_authentication(&self, cookie: &str) {
        self.open.lock().unwrap().remove(cookie);
    }
}

//! `monitor`: what happens to locks, as it happens.

use std::collections::HashMap;

use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use zbus::fdo::{DBusProxy, NameOwnerChangedStream};
use zbus::message::Type;
use zbus::names::MemberName;
use zbus::{MatchRule, Message, MessageStream, OwnedObjectPath};

use super::error::{Code, Error};
use super::link::Link;
use super::output::{Form, complain, print};
use super::signals::Signals;
use super::{clock, row};
use crate::client::{MANAGER_PATH, Options, Row, SERVICE};
use crate::lock::printable::shown;
use crate::paths;

/// Something that happened to a lock, as the Manager's signals tell it.
#[derive(Debug)]
enum Event {
    /// `LockAcquired`, `LockReleased` or `LockLost`; what is last is a mode or a reason.
    Lock { lock: OwnedObjectPath, owner: OwnedObjectPath, resource: String, last: String },
    /// `LockContended`.
    Contended { resource: String, holders: Vec<OwnedObjectPath>, owner: OwnedObjectPath },
}

/// Does it, until a signal ends it.
pub(super) async fn perform(link: &Link, form: Form) -> Result<Code, Error> {
    let mut signals = Signals::catch()?;
    let mut service = service(link).await?;
    let mut messages = messages(link).await?;
    let mut names = Names::default();
    complain(&format!("listening on the {} bus; Ctrl-C ends it", link.bus.as_str()));
    names.learn(link).await;
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(Code::SUCCESS),
            message = messages.recv() => {
                let message = message.ok_or(Error::Lost)?;
                names.follow(&message);
                if let Some((member, event)) = read(&message) {
                    print(&told(&member, &event, &names, form))?;
                }
            }
            change = service.next() => {
                let Some(change) = change else { continue };
                let Ok(change) = change.args() else { continue };
                if change.new_owner().is_none() {
                    complain("vmlockd has left the bus; what happens now is not seen");
                } else {
                    complain("vmlockd has come to the bus");
                    names.learn(link).await;
                }
            }
        }
    }
}

/// The service's coming and going.
async fn service(link: &Link) -> Result<NameOwnerChangedStream, Error> {
    let bus = DBusProxy::new(&link.connection).await?;
    Ok(bus.receive_name_owner_changed_with_args(&[(0, SERVICE)]).await?)
}

/// All signals of the Manager's object, in their order. A task of its own takes them from the
/// connection, which stands still while nobody does.
async fn messages(link: &Link) -> Result<mpsc::UnboundedReceiver<Message>, Error> {
    let rule =
        MatchRule::builder().msg_type(Type::Signal).sender(SERVICE).path(MANAGER_PATH).build()?;
    let mut stream = MessageStream::for_match_rule(rule, &link.connection, None).await?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The machines' names, by the paths of their owners.
#[derive(Debug, Default)]
struct Names(HashMap<String, String>);

impl Names {
    /// Asks for all of them. Where nobody answers there are none to be learnt.
    async fn learn(&mut self, link: &Link) {
        let listed = async { Ok(link.manager().await?.list_owners(Options::new()).await?) };
        match listed.await {
            Ok(owners) => {
                let name = |owner: &Row| {
                    (row::text(owner, "owner").to_owned(), row::text(owner, "name").to_owned())
                };
                self.0 = owners.iter().map(name).collect();
            }
            Err(error) => {
                let error: Error = error;
                if error.is_absence() {
                    complain("vmlockd is not on the bus; waiting for it");
                }
            }
        }
    }

    /// Learns from an object that comes, and forgets one that goes.
    fn follow(&mut self, message: &Message) {
        let header = message.header();
        let body = message.body();
        match header.member().map(MemberName::as_str) {
            Some("InterfacesAdded") => {
                type Added = (OwnedObjectPath, HashMap<String, Row>);
                if let Ok((path, interfaces)) = body.deserialize::<Added>()
                    && let Some(owner) = interfaces.get("org.vmlockd1.Owner")
                {
                    self.0.insert(path.to_string(), row::text(owner, "Name").to_owned());
                }
            }
            Some("InterfacesRemoved") => {
                if let Ok((path, _)) = body.deserialize::<(OwnedObjectPath, Vec<String>)>() {
                    self.0.remove(path.as_str());
                }
            }
            _ => {}
        }
    }

    /// What to call a machine: by its name, and one that never came to be by its UUID.
    fn vm(&self, owner: &OwnedObjectPath) -> String {
        match self.0.get(owner.as_str()) {
            Some(name) => format!("VM \"{name}\""),
            None => format!("VM {}", uuid(owner)),
        }
    }
}

fn uuid(owner: &OwnedObjectPath) -> String {
    paths::owner_id(owner).map_or_else(|| owner.to_string(), |id| id.uuid.to_string())
}

/// What a signal of the Manager's says; others say nothing of locks.
fn read(message: &Message) -> Option<(String, Event)> {
    let header = message.header();
    if header.interface()?.as_str() != "org.vmlockd1.Manager" {
        return None;
    }
    let member = header.member()?.to_string();
    let body = message.body();
    let event = match member.as_str() {
        "LockAcquired" | "LockReleased" | "LockLost" => {
            let (lock, owner, resource, last) = body.deserialize().ok()?;
            Event::Lock { lock, owner, resource, last }
        }
        "LockContended" => {
            let (resource, holders, owner) = body.deserialize().ok()?;
            Event::Contended { resource, holders, owner }
        }
        _ => return None,
    };
    Some((member, event))
}

fn told(member: &str, event: &Event, names: &Names, form: Form) -> String {
    match form {
        Form::Json => format!("{}\n", Value::Object(object(member, event, names))),
        Form::Text => format!("{} {}\n", clock::now(), shown(&line(member, event, names))),
    }
}

/// The arguments of the signal by their names, and beside them what happened when, and to whom.
fn object(member: &str, event: &Event, names: &Names) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("event", member.into());
    put("time-usec", clock::now_usec().into());
    let owner = match event {
        Event::Lock { lock, owner, resource, last } => {
            put("lock", lock.as_str().into());
            put("resource", resource.as_str().into());
            let last_key = if member == "LockAcquired" { "mode" } else { "reason" };
            put(last_key, last.as_str().into());
            owner
        }
        Event::Contended { resource, holders, owner } => {
            put("resource", resource.as_str().into());
            put("holders", holders.iter().map(|holder| holder.as_str()).collect());
            owner
        }
    };
    put("owner", owner.as_str().into());
    put("uuid", uuid(owner).into());
    put("name", names.0.get(owner.as_str()).map_or(Value::Null, |name| name.as_str().into()));
    object
}

fn line(member: &str, event: &Event, names: &Names) -> String {
    let word = member.strip_prefix("Lock").unwrap_or(member).to_lowercase();
    match event {
        Event::Lock { lock, owner, resource, last } => {
            let lock = lock.rsplit('/').next().unwrap_or_default();
            format!("{word:<9}  {}  {resource}  {last}  lock {lock}", names.vm(owner))
        }
        Event::Contended { resource, holders, owner } => {
            let holders: Vec<String> = holders.iter().map(|holder| names.vm(holder)).collect();
            let holders = holders.join(", ");
            format!("{word:<9}  {}  {resource}  held by {holders}", names.vm(owner))
        }
    }
}

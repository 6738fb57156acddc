//! `monitor`: what happens to locks, as it happens.

use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use zbus::fdo::{DBusProxy, NameOwnerChangedStream};
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream, OwnedObjectPath};

use super::error::{Code, Error};
use super::known::{Known, uuid};
use super::link::Link;
use super::output::{Form, complain, print};
use super::signals::Signals;
use super::{clock, row};
use crate::client::{MANAGER_PATH, Row, SERVICE};
use crate::lock::printable::shown;

/// What the change of a lock's property `Verified` is called: no signal of its own tells it.
const VERIFIED: &str = "Verified";

/// Something that happened to a lock, as signals tell it.
#[derive(Debug)]
enum Event {
    /// `LockAcquired`, `LockReleased` or `LockLost`; what is last is a mode or a reason.
    Lock { lock: OwnedObjectPath, owner: OwnedObjectPath, resource: String, last: String },
    /// `LockContended`.
    Contended { resource: String, holders: Vec<OwnedObjectPath>, owner: OwnedObjectPath },
    /// A lock from before a restart was seen to be there, or one that was lost is there again.
    Verified { lock: OwnedObjectPath },
}

/// Does it, until a signal ends it.
pub(super) async fn perform(link: &Link, form: Form) -> Result<Code, Error> {
    let mut signals = Signals::catch()?;
    let mut service = service(link).await?;
    let mut messages = messages(link).await?;
    let mut known = Known::default();
    complain(&format!("listening on the {} bus; Ctrl-C ends it", link.bus.as_str()));
    known.learn(link).await;
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(Code::SUCCESS),
            message = messages.recv() => {
                let message = message.ok_or(Error::Lost)?;
                known.follow(&message);
                if let Some((member, event)) = read(&message) {
                    if let Event::Verified { lock } = &event
                        && known.lock(lock).is_none()
                    {
                        // It tells of itself before we have asked who has come to the bus.
                        known.learn(link).await;
                    }
                    print(&told(&member, &event, &known, form))?;
                }
            }
            change = service.next() => {
                let Some(change) = change else { continue };
                let Ok(change) = change.args() else { continue };
                if change.new_owner().is_none() {
                    complain("vmlockd has left the bus; what happens now is not seen");
                } else {
                    complain("vmlockd has come to the bus");
                    known.learn(link).await;
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

/// All signals of the service's objects, in their order. A task of its own takes them from the
/// connection, which stands still while nobody does.
async fn messages(link: &Link) -> Result<mpsc::UnboundedReceiver<Message>, Error> {
    // One rule for the Manager and all locks: of two, each would keep an order of its own.
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)
        .path_namespace(MANAGER_PATH)
        .build()?;
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

/// What a signal says of a lock. Those of owners say no more than the Manager's.
fn read(message: &Message) -> Option<(String, Event)> {
    let header = message.header();
    let member = header.member()?.to_string();
    let body = message.body();
    let event = match (header.interface()?.as_str(), member.as_str()) {
        ("org.vmlockd1.Manager", "LockAcquired" | "LockReleased" | "LockLost") => {
            let (lock, owner, resource, last) = body.deserialize().ok()?;
            Event::Lock { lock, owner, resource, last }
        }
        ("org.vmlockd1.Manager", "LockContended") => {
            let (resource, holders, owner) = body.deserialize().ok()?;
            Event::Contended { resource, holders, owner }
        }
        ("org.freedesktop.DBus.Properties", "PropertiesChanged") => {
            let (interface, changed, _): (String, Row, Vec<String>) = body.deserialize().ok()?;
            // That it is not there is said by LockLost, with the reason.
            if interface != "org.vmlockd1.Lock" || !row::flag(&changed, VERIFIED) {
                return None;
            }
            let lock = header.path()?.to_owned().into();
            return Some((VERIFIED.to_owned(), Event::Verified { lock }));
        }
        _ => return None,
    };
    Some((member, event))
}

fn told(member: &str, event: &Event, known: &Known, form: Form) -> String {
    match form {
        Form::Json => format!("{}\n", Value::Object(object(member, event, known))),
        Form::Text => format!("{} {}\n", clock::now(), shown(&line(member, event, known))),
    }
}

/// The arguments of the signal by their names, and beside them what happened when, and to whom.
fn object(member: &str, event: &Event, known: &Known) -> Map<String, Value> {
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
        Event::Verified { lock } => {
            put("lock", lock.as_str().into());
            // It may have been released before we could ask.
            let Some((owner, resource)) = known.lock(lock) else { return object };
            put("resource", resource.as_str().into());
            owner
        }
    };
    put("owner", owner.as_str().into());
    put("uuid", uuid(owner).into());
    put("name", known.name(owner).map_or(Value::Null, Value::from));
    object
}

fn line(member: &str, event: &Event, known: &Known) -> String {
    // What must not be overlooked stands out.
    let word = match member {
        "LockLost" => "LOST".to_owned(),
        member => member.strip_prefix("Lock").unwrap_or(member).to_lowercase(),
    };
    let number = |lock: &OwnedObjectPath| lock.rsplit('/').next().unwrap_or_default().to_owned();
    match event {
        Event::Lock { lock, owner, resource, last } => {
            format!("{word:<9}  {}  {resource}  {last}  lock {}", known.vm(owner), number(lock))
        }
        Event::Contended { resource, holders, owner } => {
            let holders: Vec<String> = holders.iter().map(|holder| known.vm(holder)).collect();
            let holders = holders.join(", ");
            format!("{word:<9}  {}  {resource}  held by {holders}", known.vm(owner))
        }
        Event::Verified { lock } => match known.lock(lock) {
            Some((owner, resource)) => {
                format!("{word:<9}  {}  {resource}  lock {}", known.vm(owner), number(lock))
            }
            None => format!("{word:<9}  lock {}", number(lock)),
        },
    }
}

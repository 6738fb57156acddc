//! What signals say of owners and locks: as an object for programs, as a line for people.

use serde_json::{Map, Value};
use zbus::message::Type;
use zbus::{Message, OwnedObjectPath};

use crate::cli::format::clock;
use crate::cli::format::row;
use crate::cli::monitor::cache::{Known, owner_id, uuid};
use crate::client::{OWNERS_PATH, Row};
use crate::lock::OwnerId;

/// Something that happened.
#[derive(Debug)]
pub(crate) struct News {
    /// Its name: the signal's, where one of its own tells it.
    name: &'static str,
    /// To whom or what.
    pub(crate) event: Event,
}

/// What happened, as signals tell it.
#[derive(Debug)]
pub(crate) enum Event {
    /// An owner is there.
    Opened { owner: OwnedObjectPath, front: String },
    /// An owner is gone.
    Ended { owner: OwnedObjectPath },
    /// `LockAcquired`, `LockReleased` or `LockLost`; what is last is a mode or a reason.
    Lock { lock: OwnedObjectPath, owner: OwnedObjectPath, resource: String, last: String },
    /// `LockContended`.
    Contended { resource: String, holders: Vec<OwnedObjectPath>, owner: OwnedObjectPath },
    /// A lock has another mode.
    Converted { lock: OwnedObjectPath, mode: String },
    /// A lock from before a restart was seen to be there, or one that was lost is there again.
    Verified { lock: OwnedObjectPath },
    /// The service has left the bus, or come to it.
    Service,
}

impl News {
    fn new(name: &'static str, event: Event) -> Self {
        Self { name, event }
    }

    /// What a signal of the service says. Those of owners say no more than the Manager's.
    pub(crate) fn read(message: &Message) -> Option<Self> {
        let header = message.header();
        if header.message_type() != Type::Signal {
            return None;
        }
        let body = message.body();
        match (header.interface()?.as_str(), header.member()?.as_str()) {
            ("org.vmlockd1.Manager", "LockContended") => {
                let (resource, holders, owner) = body.deserialize().ok()?;
                Some(Self::new("LockContended", Event::Contended { resource, holders, owner }))
            }
            ("org.vmlockd1.Manager", member) => {
                let names = ["LockAcquired", "LockReleased", "LockLost"];
                let name = names.into_iter().find(|name| *name == member)?;
                let (lock, owner, resource, last) = body.deserialize().ok()?;
                Some(Self::new(name, Event::Lock { lock, owner, resource, last }))
            }
            ("org.freedesktop.DBus.ObjectManager", "InterfacesAdded") => {
                type Added = (OwnedObjectPath, std::collections::HashMap<String, Row>);
                let (owner, interfaces): Added = body.deserialize().ok()?;
                let front = row::text(interfaces.get("org.vmlockd1.Owner")?, "Frontend").to_owned();
                Some(Self::new("OwnerOpened", Event::Opened { owner, front }))
            }
            ("org.freedesktop.DBus.ObjectManager", "InterfacesRemoved") => {
                let (owner, _): (OwnedObjectPath, Vec<String>) = body.deserialize().ok()?;
                let is_one = owner.as_str().starts_with(&format!("{OWNERS_PATH}/"));
                is_one.then(|| Self::new("OwnerEnded", Event::Ended { owner }))
            }
            ("org.freedesktop.DBus.Properties", "PropertiesChanged") => {
                let (interface, changed, _): (String, Row, Vec<String>) =
                    body.deserialize().ok()?;
                let lock = || Some(OwnedObjectPath::from(header.path()?.to_owned()));
                match interface.as_str() {
                    // That it is not there is said by LockLost, with the reason.
                    "org.vmlockd1.Lock" if row::flag(&changed, "Verified") => {
                        Some(Self::new("Verified", Event::Verified { lock: lock()? }))
                    }
                    "org.vmlockd1.Lock" if changed.contains_key("Mode") => {
                        let mode = row::text(&changed, "Mode").to_owned();
                        Some(Self::new("Converted", Event::Converted { lock: lock()?, mode }))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// That the service has come to the bus, or left it.
    pub(crate) fn of_service(is_there: bool) -> Self {
        Self::new(if is_there { "ServiceCame" } else { "ServiceLeft" }, Event::Service)
    }

    /// The lock, where the news says no more of it: who holds it, and what it is on, is to be known.
    pub(crate) fn bare_lock(&self) -> Option<&OwnedObjectPath> {
        match &self.event {
            Event::Converted { lock, .. } | Event::Verified { lock } => Some(lock),
            _ => None,
        }
    }

    /// The arguments of the signal by their names, and beside them what happened when, and to whom.
    pub(crate) fn object(&self, known: &Known) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("event", self.name.into());
        let now = clock::now_usec();
        put("time", clock::rfc3339(now).into());
        put("time-usec", now.into());
        if let Some(lock) = self.bare_lock() {
            put("lock", lock.as_str().into());
        }
        let owner = match &self.event {
            Event::Opened { owner, front } => {
                put("frontend", front.as_str().into());
                Some(owner)
            }
            Event::Ended { owner } => Some(owner),
            Event::Lock { lock, owner, resource, last } => {
                put("lock", lock.as_str().into());
                put("resource", resource.as_str().into());
                if self.name == "LockAcquired" {
                    put("mode", last.as_str().into());
                } else {
                    put("mode", known.lock(lock).map(|lock| lock.mode.as_str()).into());
                    put("reason", last.as_str().into());
                }
                Some(owner)
            }
            Event::Contended { resource, holders, owner } => {
                put("resource", resource.as_str().into());
                put("holders", holders.iter().map(|holder| holder.as_str()).collect());
                put("holder-uuids", holders.iter().map(uuid).collect());
                put("holder-names", holders.iter().map(|holder| known.name(holder)).collect());
                Some(owner)
            }
            Event::Converted { lock, .. } | Event::Verified { lock } => {
                // It may have been released before we could ask.
                known.lock(lock).map(|lock| {
                    put("resource", lock.resource.as_str().into());
                    put("mode", lock.mode.as_str().into());
                    &lock.owner
                })
            }
            Event::Service => None,
        };
        if let Event::Converted { mode, .. } = &self.event {
            put("mode", mode.as_str().into());
        }
        if let Some(owner) = owner {
            put("owner", owner.as_str().into());
            put("uuid", uuid(owner).into());
            put("name", known.name(owner).into());
            put("uid", owner_id(owner).map(|OwnerId { uid, .. }| uid).into());
        }
        Value::Object(object)
    }

    /// The same in words; nothing where people are told otherwise.
    pub(crate) fn line(&self, known: &Known) -> Option<String> {
        // What must not be overlooked stands out.
        let word = match self.name {
            "LockLost" => "LOST".to_owned(),
            name => {
                let name = name.strip_prefix("Lock").or_else(|| name.strip_prefix("Owner"));
                name.unwrap_or(self.name).to_lowercase()
            }
        };
        let number =
            |lock: &OwnedObjectPath| lock.rsplit('/').next().unwrap_or_default().to_owned();
        Some(match &self.event {
            Event::Opened { owner, .. } | Event::Ended { owner } => {
                format!("{word:<9}  {}  {}", known.vm(owner), uuid(owner))
            }
            Event::Lock { lock, owner, resource, last } => {
                format!("{word:<9}  {}  {resource}  {last}  lock {}", known.vm(owner), number(lock))
            }
            Event::Contended { resource, holders, owner } => {
                let holders: Vec<String> = holders.iter().map(|holder| known.vm(holder)).collect();
                let holders = holders.join(", ");
                format!("{word:<9}  {}  {resource}  held by {holders}", known.vm(owner))
            }
            Event::Converted { lock, .. } | Event::Verified { lock } => {
                let mode = match &self.event {
                    Event::Converted { mode, .. } => format!("{mode}  "),
                    _ => String::new(),
                };
                let number = number(lock);
                match known.lock(lock) {
                    Some(lock) => {
                        let (vm, resource) = (known.vm(&lock.owner), &lock.resource);
                        format!("{word:<9}  {vm}  {resource}  {mode}lock {number}")
                    }
                    None => format!("{word:<9}  {mode}lock {number}"),
                }
            }
            Event::Service => return None,
        })
    }
}

//! Events of owners and locks: parsed from signals, and formatted as JSON or as a line.

use serde_json::{Map, Value};
use zbus::message::Type;
use zbus::{Message, OwnedObjectPath};

use crate::cli::format::clock;
use crate::cli::format::row;
use crate::cli::monitor::cache::{ObjectCache, owner_id, uuid};
use crate::client::{OWNERS_PATH, Row};
use crate::lock::OwnerId;

/// An event.
#[derive(Debug)]
pub(crate) struct MonitorEvent {
    /// Its name; that of the signal if the event has a signal of its own.
    name: &'static str,
    /// The kind, with its data.
    pub(crate) kind: EventKind,
}

/// The kind of an event, with the data of its signal.
#[derive(Debug)]
pub(crate) enum EventKind {
    /// An owner was opened.
    Opened { owner: OwnedObjectPath, frontend: String },
    /// An owner ended.
    Ended { owner: OwnedObjectPath },
    /// `LockAcquired`, `LockReleased` or `LockLost`; `detail` is the mode or the reason.
    Lock { lock: OwnedObjectPath, owner: OwnedObjectPath, resource: String, detail: String },
    /// `LockContended`.
    Contended { resource: String, holders: Vec<OwnedObjectPath>, owner: OwnedObjectPath },
    /// The mode of a lock was changed.
    Converted { lock: OwnedObjectPath, mode: String },
    /// A lock from before a restart was verified, or a lost lock was acquired again.
    Verified { lock: OwnedObjectPath },
    /// The service has connected to the bus, or left it.
    Service,
}

impl MonitorEvent {
    fn new(name: &'static str, kind: EventKind) -> Self {
        Self { name, kind }
    }

    /// Parses a signal of the service. Signals of owners are ignored, as the Manager emits the same
    /// events.
    pub(crate) fn read(message: &Message) -> Option<Self> {
        let header = message.header();
        if header.message_type() != Type::Signal {
            return None;
        }
        let body = message.body();
        match (header.interface()?.as_str(), header.member()?.as_str()) {
            ("org.vmlockd1.Manager", "LockContended") => {
                let (resource, holders, owner) = body.deserialize().ok()?;
                Some(Self::new("LockContended", EventKind::Contended { resource, holders, owner }))
            }
            ("org.vmlockd1.Manager", member) => {
                let names = ["LockAcquired", "LockReleased", "LockLost"];
                let name = names.into_iter().find(|name| *name == member)?;
                let (lock, owner, resource, detail) = body.deserialize().ok()?;
                Some(Self::new(name, EventKind::Lock { lock, owner, resource, detail }))
            }
            ("org.freedesktop.DBus.ObjectManager", "InterfacesAdded") => {
                type Added = (OwnedObjectPath, std::collections::HashMap<String, Row>);
                let (owner, interfaces): Added = body.deserialize().ok()?;
                let frontend =
                    row::text(interfaces.get("org.vmlockd1.Owner")?, "Frontend").to_owned();
                Some(Self::new("OwnerOpened", EventKind::Opened { owner, frontend }))
            }
            ("org.freedesktop.DBus.ObjectManager", "InterfacesRemoved") => {
                let (owner, _): (OwnedObjectPath, Vec<String>) = body.deserialize().ok()?;
                let is_one = owner.as_str().starts_with(&format!("{OWNERS_PATH}/"));
                is_one.then(|| Self::new("OwnerEnded", EventKind::Ended { owner }))
            }
            ("org.freedesktop.DBus.Properties", "PropertiesChanged") => {
                let (interface, changed, _): (String, Row, Vec<String>) =
                    body.deserialize().ok()?;
                let lock = || Some(OwnedObjectPath::from(header.path()?.to_owned()));
                match interface.as_str() {
                    // For a lost lock there is LockLost, with the reason.
                    "org.vmlockd1.Lock" if row::flag(&changed, "Verified") => {
                        Some(Self::new("Verified", EventKind::Verified { lock: lock()? }))
                    }
                    "org.vmlockd1.Lock" if changed.contains_key("Mode") => {
                        let mode = row::text(&changed, "Mode").to_owned();
                        Some(Self::new("Converted", EventKind::Converted { lock: lock()?, mode }))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Returns the event for a service that has connected to the bus, or left it.
    pub(crate) fn service_presence(is_there: bool) -> Self {
        Self::new(if is_there { "ServiceCame" } else { "ServiceLeft" }, EventKind::Service)
    }

    /// Returns the lock of an event without an owner and a resource, which must be looked up.
    pub(crate) fn unknown_lock(&self) -> Option<&OwnedObjectPath> {
        match &self.kind {
            EventKind::Converted { lock, .. } | EventKind::Verified { lock } => Some(lock),
            _ => None,
        }
    }

    /// Converts the event to JSON: the arguments of the signal by their names, the time and the
    /// owner.
    pub(crate) fn to_json(&self, cache: &ObjectCache) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("event", self.name.into());
        let now = clock::now_usec();
        put("time", clock::rfc3339(now).into());
        put("time-usec", now.into());
        if let Some(lock) = self.unknown_lock() {
            put("lock", lock.as_str().into());
        }
        let owner = match &self.kind {
            EventKind::Opened { owner, frontend } => {
                put("frontend", frontend.as_str().into());
                Some(owner)
            }
            EventKind::Ended { owner } => Some(owner),
            EventKind::Lock { lock, owner, resource, detail } => {
                put("lock", lock.as_str().into());
                put("resource", resource.as_str().into());
                if self.name == "LockAcquired" {
                    put("mode", detail.as_str().into());
                } else {
                    put("mode", cache.lock(lock).map(|lock| lock.mode.as_str()).into());
                    put("reason", detail.as_str().into());
                }
                Some(owner)
            }
            EventKind::Contended { resource, holders, owner } => {
                put("resource", resource.as_str().into());
                put("holders", holders.iter().map(|holder| holder.as_str()).collect());
                put("holder-uuids", holders.iter().map(uuid).collect());
                put("holder-names", holders.iter().map(|holder| cache.name(holder)).collect());
                Some(owner)
            }
            EventKind::Converted { lock, .. } | EventKind::Verified { lock } => {
                // The lock may have been released before the cache was loaded.
                cache.lock(lock).map(|lock| {
                    put("resource", lock.resource.as_str().into());
                    put("mode", lock.mode.as_str().into());
                    &lock.owner
                })
            }
            EventKind::Service => None,
        };
        if let EventKind::Converted { mode, .. } = &self.kind {
            put("mode", mode.as_str().into());
        }
        if let Some(owner) = owner {
            put("owner", owner.as_str().into());
            put("uuid", uuid(owner).into());
            put("name", cache.name(owner).into());
            put("uid", owner_id(owner).map(|OwnerId { uid, .. }| uid).into());
        }
        Value::Object(object)
    }

    /// Formats the event as a line for people; `None` if another message reports it.
    pub(crate) fn format_line(&self, cache: &ObjectCache) -> Option<String> {
        // In capitals, so that it is not overlooked.
        let word = match self.name {
            "LockLost" => "LOST".to_owned(),
            name => {
                let name = name.strip_prefix("Lock").or_else(|| name.strip_prefix("Owner"));
                name.unwrap_or(self.name).to_lowercase()
            }
        };
        let number =
            |lock: &OwnedObjectPath| lock.rsplit('/').next().unwrap_or_default().to_owned();
        Some(match &self.kind {
            EventKind::Opened { owner, .. } | EventKind::Ended { owner } => {
                format!("{word:<9}  {}  {}", cache.vm_name(owner), uuid(owner))
            }
            EventKind::Lock { lock, owner, resource, detail } => {
                format!(
                    "{word:<9}  {}  {resource}  {detail}  lock {}",
                    cache.vm_name(owner),
                    number(lock)
                )
            }
            EventKind::Contended { resource, holders, owner } => {
                let holders: Vec<String> =
                    holders.iter().map(|holder| cache.vm_name(holder)).collect();
                let holders = holders.join(", ");
                format!("{word:<9}  {}  {resource}  held by {holders}", cache.vm_name(owner))
            }
            EventKind::Converted { lock, .. } | EventKind::Verified { lock } => {
                let mode = match &self.kind {
                    EventKind::Converted { mode, .. } => format!("{mode}  "),
                    _ => String::new(),
                };
                let number = number(lock);
                match cache.lock(lock) {
                    Some(lock) => {
                        let (vm_name, resource) = (cache.vm_name(&lock.owner), &lock.resource);
                        format!("{word:<9}  {vm_name}  {resource}  {mode}lock {number}")
                    }
                    None => format!("{word:<9}  {mode}lock {number}"),
                }
            }
            EventKind::Service => return None,
        })
    }
}

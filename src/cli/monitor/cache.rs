//! Names of owners and properties of locks by their object paths, kept current by signals.

use std::collections::HashMap;

use zbus::names::MemberName;
use zbus::{Message, OwnedObjectPath};

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::format::row;
use crate::cli::terminal::output::print_presence;
use crate::client::{Options, Row, lists};
use crate::lock::OwnerId;
use crate::paths;

/// The owners and locks of the service.
#[derive(Debug, Default)]
pub(crate) struct ObjectCache {
    /// The names of VMs, by the paths of their owners.
    names: HashMap<String, String>,
    /// The locks, by their paths.
    locks: HashMap<String, CachedLock>,
}

/// The properties of a lock.
#[derive(Debug)]
pub(crate) struct CachedLock {
    /// The path of its owner.
    pub(crate) owner: OwnedObjectPath,
    /// The name of the disk or lease.
    pub(crate) resource: String,
    /// The mode.
    pub(crate) mode: String,
}

impl ObjectCache {
    /// Reads all owners and locks. Leaves the cache unchanged if the service does not reply.
    pub(crate) async fn load(&mut self, service: &ServiceConnection) {
        match read_lists(service).await {
            Ok((owners, locks)) => {
                let word = |row: &Row, key| row::text(row, key).to_owned();
                self.names =
                    owners.iter().map(|row| (word(row, "owner"), word(row, "name"))).collect();
                let lock = |row: &Row| {
                    let owner = OwnedObjectPath::try_from(row::text(row, "owner")).ok()?;
                    let (resource, mode) = (word(row, "resource"), word(row, "mode"));
                    Some((word(row, "lock"), CachedLock { owner, resource, mode }))
                };
                self.locks = locks.iter().filter_map(lock).collect();
            }
            Err(error) if error.is_unavailable() => {
                print_presence(service.bus, false);
            }
            // Unknown objects are printed by their numbers.
            Err(_) => {}
        }
    }

    /// Updates the cache by a signal about an object that was added, changed or removed.
    pub(crate) fn update(&mut self, message: &Message) {
        let header = message.header();
        let body = message.body();
        match header.member().map(MemberName::as_str) {
            Some("InterfacesAdded") => {
                type Added = (OwnedObjectPath, HashMap<String, Row>);
                let Ok((path, interfaces)) = body.deserialize::<Added>() else { return };
                if let Some(owner) = interfaces.get("org.vmlockd1.Owner") {
                    self.names.insert(path.to_string(), row::text(owner, "Name").to_owned());
                }
                if let Some(lock) = interfaces.get("org.vmlockd1.Lock")
                    && let Ok(owner) = OwnedObjectPath::try_from(row::text(lock, "Owner"))
                {
                    let word = |key| row::text(lock, key).to_owned();
                    let (resource, mode) = (word("Resource"), word("Mode"));
                    self.locks.insert(path.to_string(), CachedLock { owner, resource, mode });
                }
            }
            Some("PropertiesChanged") => {
                let Ok((_, changed, _)) = body.deserialize::<(String, Row, Vec<String>)>() else {
                    return;
                };
                let lock = header.path().and_then(|path| self.locks.get_mut(path.as_str()));
                if let Some(lock) = lock.filter(|_| changed.contains_key("Mode")) {
                    row::text(&changed, "Mode").clone_into(&mut lock.mode);
                }
            }
            Some("InterfacesRemoved") => {
                if let Ok((path, _)) = body.deserialize::<(OwnedObjectPath, Vec<String>)>() {
                    self.names.remove(path.as_str());
                    self.locks.remove(path.as_str());
                }
            }
            _ => {}
        }
    }

    /// Returns the name of an owner's VM.
    pub(crate) fn name(&self, owner: &OwnedObjectPath) -> Option<&str> {
        self.names.get(owner.as_str()).map(String::as_str)
    }

    /// Describes a VM by its name, or by its UUID if the name is not known.
    pub(crate) fn vm_name(&self, owner: &OwnedObjectPath) -> String {
        match self.name(owner) {
            Some(name) => format!("VM \"{name}\""),
            None => format!("VM {}", uuid(owner)),
        }
    }

    /// Returns a lock.
    pub(crate) fn lock(&self, lock: &OwnedObjectPath) -> Option<&CachedLock> {
        self.locks.get(lock.as_str())
    }
}

/// Returns the UUID of an owner.
pub(crate) fn uuid(owner: &OwnedObjectPath) -> String {
    owner_id(owner).map_or_else(|| owner.to_string(), |id| id.uuid.to_string())
}

/// Returns the id in the path of an owner.
pub(crate) fn owner_id(owner: &OwnedObjectPath) -> Option<OwnerId> {
    paths::owner_id(owner)
}

/// Reads the lists of owners and locks.
async fn read_lists(service: &ServiceConnection) -> Result<(Vec<Row>, Vec<Row>), Error> {
    let manager = service.manager().await?;
    let owners = lists::owners(&manager).await?;
    Ok((owners, lists::locks(&manager, Options::new()).await?))
}

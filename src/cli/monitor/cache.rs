//! What is known of owners and locks by their paths, while signals tell of them.

use std::collections::HashMap;

use zbus::names::MemberName;
use zbus::{Message, OwnedObjectPath};

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::format::row;
use crate::cli::list::watch::remark_presence;
use crate::client::{Options, Row, lists};
use crate::lock::OwnerId;
use crate::paths;

/// Names of machines, and what locks are on.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// By the paths of owners.
    names: HashMap<String, String>,
    /// By the paths of locks.
    locks: HashMap<String, Lock>,
}

/// What is known of a lock.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Who holds it.
    pub(crate) owner: OwnedObjectPath,
    /// What it is on.
    pub(crate) resource: String,
    /// How it is held.
    pub(crate) mode: String,
}

impl Known {
    /// Asks for everything. Where nobody answers there is nothing to be learnt.
    pub(crate) async fn learn(&mut self, link: &Link) {
        match ask(link).await {
            Ok((owners, locks)) => {
                let word = |row: &Row, key| row::text(row, key).to_owned();
                self.names =
                    owners.iter().map(|row| (word(row, "owner"), word(row, "name"))).collect();
                let lock = |row: &Row| {
                    let owner = OwnedObjectPath::try_from(row::text(row, "owner")).ok()?;
                    let (resource, mode) = (word(row, "resource"), word(row, "mode"));
                    Some((word(row, "lock"), Lock { owner, resource, mode }))
                };
                self.locks = locks.iter().filter_map(lock).collect();
            }
            Err(error) if error.is_absence() => {
                remark_presence(link, false);
            }
            // What can't be named is told by its number.
            Err(_) => {}
        }
    }

    /// Learns from an object that comes, and forgets one that goes.
    pub(crate) fn follow(&mut self, message: &Message) {
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
                    self.locks.insert(path.to_string(), Lock { owner, resource, mode });
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

    /// A machine's name.
    pub(crate) fn name(&self, owner: &OwnedObjectPath) -> Option<&str> {
        self.names.get(owner.as_str()).map(String::as_str)
    }

    /// What to call a machine: by its name, and one that never came to be by its UUID.
    pub(crate) fn vm(&self, owner: &OwnedObjectPath) -> String {
        match self.name(owner) {
            Some(name) => format!("VM \"{name}\""),
            None => format!("VM {}", uuid(owner)),
        }
    }

    /// A lock.
    pub(crate) fn lock(&self, lock: &OwnedObjectPath) -> Option<&Lock> {
        self.locks.get(lock.as_str())
    }
}

/// The UUID of an owner.
pub(crate) fn uuid(owner: &OwnedObjectPath) -> String {
    owner_id(owner).map_or_else(|| owner.to_string(), |id| id.uuid.to_string())
}

/// What an owner's path says.
pub(crate) fn owner_id(owner: &OwnedObjectPath) -> Option<OwnerId> {
    paths::owner_id(owner)
}

async fn ask(link: &Link) -> Result<(Vec<Row>, Vec<Row>), Error> {
    let manager = link.manager().await?;
    let owners = lists::owners(&manager).await?;
    Ok((owners, lists::locks(&manager, Options::new()).await?))
}

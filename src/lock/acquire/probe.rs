//! Finds the holder of a disk without locking it.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use crate::lock::acquire::handle::LockHandle;
use crate::lock::acquire::{check_unlocked, open_to_test};
use crate::lock::foreign::Request;
use crate::lock::lockspace::key::Key;
use crate::lock::model::error::Error;
use crate::lock::model::holder_entry::Entry;
use crate::lock::model::host::Host;
use crate::lock::model::mode::Mode;
use crate::lock::model::process_search::{Node, Search};
use crate::lock::model::refusal::ForeignHolder;
use crate::lock::request::{Asked, Work};
use crate::lock::resolve::Target;
use crate::lock::text::escape::shown_path;

/// Finds the foreign holder of a disk that the table has no lock on, and the processes that have it
/// open. Creates nothing.
#[derive(Debug)]
pub struct Probe {
    /// The disk.
    pub target: Target,
    /// This host.
    pub host: Option<Arc<Host>>,
}

/// The use of a disk by others than the owners of this service.
#[derive(Debug)]
pub enum Others {
    /// A foreign holder has locked it.
    Hold(Box<ForeignHolder>),
    /// It is not locked; this search finds the processes that have it open.
    Use(Search),
}

impl Work for Probe {
    type Answer = Result<Others, Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.target.asks()
    }

    fn perform(self) -> Self::Answer {
        let Self { target, host } = self;
        let mode = Mode::Exclusive;
        let host_id = host.as_ref().map(|host| host.id());
        let request = Request { resource: &target.name, host_id, ..Request::default() };
        let tested = open_to_test(&target, &request).and_then(|disk| {
            let request = Request { disk: Some(disk.as_fd()), ..request };
            check_unlocked(&disk, mode, &request)?;
            let Some(directory) = target.lockspace.directory() else { return Ok(()) };
            target.files.iter().try_for_each(|file| {
                let shown = shown_path(&directory.path_of(file));
                match directory.find_file(file)? {
                    Some(lock_file) => {
                        let request = Request { lock_file: Some(&shown), ..request };
                        check_unlocked(&lock_file, mode, &request)
                    }
                    None => Ok(()),
                }
            })
        });
        match tested {
            Ok(()) => Ok(Others::Use(search_users(&target))),
            Err(Error::HeldElsewhere(foreign)) => Ok(Others::Hold(foreign)),
            Err(error) => Err(error),
        }
    }
}

/// Finds the foreign holder of a key that the table has no lock on. Creates nothing.
#[derive(Debug)]
pub struct ProbeKey {
    /// The key.
    pub key: Key,
    /// This host.
    pub host: Option<Arc<Host>>,
}

impl Work for ProbeKey {
    /// The foreign holder, if there is one.
    type Answer = Result<Option<ForeignHolder>, Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        self.key.asks().into_iter().collect()
    }

    fn perform(self) -> Self::Answer {
        let Self { key, host } = self;
        let (resource, shown) = (key.resource(), shown_path(key.path()));
        let host_id = host.as_ref().map(|host| host.id());
        let lock_file = Some(shown.as_str());
        let request = Request { resource: &resource, lock_file, host_id, ..Request::default() };
        match key.find_file().and_then(|file| check_unlocked(&file, Mode::Exclusive, &request)) {
            Ok(()) => Ok(None),
            Err(Error::HeldElsewhere(foreign)) => Ok(Some(*foreign)),
            Err(error) => Err(error),
        }
    }
}

/// Returns what to search for in order to find the processes that have a disk open with locks of
/// their own, as QEMU does.
#[must_use]
pub fn search_users(target: &Target) -> Search {
    Search { disk: Node::of(target.pin.as_fd()), ..Search::default() }
}

/// Finds the foreign holder that shares a disk with owners of this service, and the processes that
/// have it open.
#[derive(Debug)]
pub struct FindOthers {
    /// The disk.
    pub target: Target,
    /// The locks of this service on it.
    pub held: Vec<Arc<LockHandle>>,
    /// This host.
    pub host: Option<Arc<Host>>,
}

impl Work for FindOthers {
    /// The foreign holder, which counts only if it can be named; and what to search for in order to
    /// find the users.
    type Answer = (Option<ForeignHolder>, Search);

    fn asks(&self) -> Vec<Asked<'_>> {
        self.target.asks()
    }

    fn perform(self) -> Self::Answer {
        let Self { target, held, host } = self;
        let own: Vec<Entry> = held.iter().filter_map(|held| held.entry()).collect();
        let request = Request {
            resource: &target.name,
            host_id: host.as_ref().map(|host| host.id()),
            own: &own,
            ..Request::default()
        };
        // No other lock exists beside an exclusive one. A shared lock shows the others beside it,
        // also those of this service.
        let shared = held.iter().find(|held| held.is_shared());
        (shared.and_then(|held| held.foreign_holder_beside(&request)), search_users(&target))
    }
}

impl LockHandle {
    fn is_shared(&self) -> bool {
        *self.mode() == Some(Mode::Shared)
    }

    fn entry(&self) -> Option<Entry> {
        self.written().as_ref().map(|written| written.entry.clone())
    }

    fn foreign_holder_beside(&self, request: &Request<'_>) -> Option<ForeignHolder> {
        self.bytes.iter().find_map(|byte| {
            let file = byte.description.file().ok()?;
            let lock_file = byte.shown();
            let request = Request { lock_file: lock_file.as_deref(), ..*request };
            match check_unlocked(&file, Mode::Exclusive, &request) {
                Err(Error::HeldElsewhere(foreign)) => Some(*foreign),
                _ => None,
            }
        })
    }
}

//! Lookup, creation and removal of the leases that callers name.
//!
//! A lease is an empty file in a lockspace. It must be created explicitly: a request for a missing
//! lease does not create it, since a misspelt name would protect nothing. If the path of the
//! lockspace leads to another directory by now, for example since shared storage was mounted on it,
//! the lockspace is opened again.

use std::sync::Arc;

use crate::inspector::Requester;
use crate::lock::acquire::EditKeyFile;
use crate::lock::acquire::probe::ProbeKey;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::lockspace::key::Key;
use crate::lock::model::lease_name::LeaseName;
use crate::lock::model::refusal::{ForeignHolder, Holder};
use crate::lock::request::{Asked, Work};
use crate::lock::text::escape::shown_path;
use crate::lock::{self, Lock, Mode};
use crate::service::core::error::Error;
use crate::service::lockspace::lockspaces::Lockspaces;
use crate::service::lockspace::lookup::no_such;
use crate::service::process::caller::CallerProcess;
use crate::service::process::names::named_lease;

impl Lockspaces {
    /// Returns the key of a lease, whether or not its file exists. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchLockspace`], and the errors of opening its directory.
    pub(in crate::service) fn find_lease(&self, name: &LeaseName) -> Result<Key, Error> {
        let existing = self
            .state
            .lock()
            .lockspace(name.directory())
            .ok_or_else(|| no_such(name.directory()))?;
        let existing = self.renew(existing)?;
        // The authorization of the caller, if there was any, is for the requested mode only.
        Ok(Key::new(existing, name.key(), false)?.for_one_mode())
    }

    /// Returns the key of a lease whose directory must be the same for its caller. Call it on a
    /// worker thread.
    fn find_lease_for(&self, caller: &Arc<CallerProcess>, name: &LeaseName) -> Result<Key, Error> {
        let named = named_lease(caller, name);
        let key = self.find_lease(name);
        let key = key.map_err(|error| self.inspection.explain_missing(Some(&named), error))?;
        if let Some(directory) = key.lockspace().directory() {
            self.inspection.check_lockspace(caller, name.directory(), directory)?;
        }
        Ok(key)
    }

    /// Returns the target of a lease, which must exist.
    ///
    /// # Errors
    ///
    /// As for [`Self::find_lease`]; [`lock::Error::Missing`].
    pub async fn resolve_lease(
        self: &Arc<Self>,
        caller: &Arc<CallerProcess>,
        name: LeaseName,
    ) -> Result<Key, Error> {
        let find = FindLease { lockspaces: Arc::clone(self), caller: Arc::clone(caller), name };
        self.executor.run_for(caller.uid(), find).await?
    }

    /// Returns the holders of a lease: its owners, or else the owners that it is reserved for, and
    /// a foreign holder.
    ///
    /// # Errors
    ///
    /// As for [`Self::resolve_lease`].
    pub async fn probe_lease(
        self: &Arc<Self>,
        caller: &Arc<CallerProcess>,
        name: LeaseName,
    ) -> Result<(Vec<Lock>, Vec<Holder>, Option<ForeignHolder>), Error> {
        let key = self.resolve_lease(caller, name).await?;
        let locks = self.state.lock().locks_on(key.identity(), &[]);
        if !locks.is_empty() {
            return Ok((locks, Vec::new(), None));
        }
        let reserved = self.state.lock().table.reserved_holders(key.identity(), &[]);
        let probe = ProbeKey { key, host: self.state.lock().host() };
        Ok((locks, reserved, self.executor.run_for(caller.uid(), probe).await??))
    }

    /// Creates a lease. An existing one is left unchanged.
    ///
    /// # Errors
    ///
    /// As for [`Self::find_lease`]; [`lock::Error::Configured`], and the errors of the creation of
    /// the file.
    pub async fn create_lease(
        self: &Arc<Self>,
        caller: &Arc<CallerProcess>,
        name: LeaseName,
    ) -> Result<(), Error> {
        let (uid, caller) = (caller.uid(), Arc::clone(caller));
        let deed =
            LeaseOperation { lockspaces: Arc::clone(self), caller, name, tend: EditKeyFile::Make };
        self.executor.run_for(uid, deed).await?
    }

    /// Removes a lease that no holder has locked.
    ///
    /// # Errors
    ///
    /// As for [`Self::resolve_lease`]; [`lock::Error::Configured`]; [`Error::Held`],
    /// [`Error::HeldElsewhere`]; [`lock::Error::NotLockable`] for a file that is not empty.
    pub async fn remove_lease(
        self: &Arc<Self>,
        caller: &Arc<CallerProcess>,
        name: LeaseName,
    ) -> Result<(), Error> {
        let (uid, caller) = (caller.uid(), Arc::clone(caller));
        let deed = LeaseOperation {
            lockspaces: Arc::clone(self),
            caller,
            name,
            tend: EditKeyFile::Remove,
        };
        self.executor.run_for(uid, deed).await?
    }
}

/// Returns what a request for a lease accesses: the directory of its lockspace, if that exists.
fn asks_of<'n>(lockspaces: &Arc<Lockspaces>, name: &'n LeaseName) -> Vec<Asked<'n>> {
    let existing = lockspaces.state.lock().lockspace(name.directory());
    existing.map(|_| Asked::path(name.directory())).into_iter().collect()
}

struct FindLease {
    lockspaces: Arc<Lockspaces>,
    caller: Arc<CallerProcess>,
    name: LeaseName,
}

impl Work for FindLease {
    type Answer = Result<Key, Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        asks_of(&self.lockspaces, &self.name)
    }

    fn perform(self) -> Self::Answer {
        let key = self.lockspaces.find_lease_for(&self.caller, &self.name)?;
        key.find_file()?;
        Ok(key)
    }
}

struct LeaseOperation {
    lockspaces: Arc<Lockspaces>,
    caller: Arc<CallerProcess>,
    name: LeaseName,
    tend: fn(Key) -> EditKeyFile,
}

impl Work for LeaseOperation {
    type Answer = Result<(), Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        asks_of(&self.lockspaces, &self.name)
    }

    fn perform(self) -> Self::Answer {
        let Self { lockspaces, caller, name, tend } = self;
        let requester = Requester::User(caller.uid());
        let key = lockspaces.find_lease_for(&caller, &name)?;
        if key.lockspace().kind() == LockspaceKind::File {
            // Files in the configured lockspaces are created and removed with the locks on disks.
            return Err(lock::Error::Configured(shown_path(name.directory())).into());
        }
        let (resource, tend) = (key.resource(), tend(key.clone()));
        let removes = matches!(tend, EditKeyFile::Remove(_));
        if removes {
            key.find_file()?;
            let want = key.want(Mode::Exclusive);
            let taken = lockspaces.state.lock().table.refuse_if_locked(&want);
            taken.map_err(|error| lockspaces.refusals.describe_refusal(requester, error.into()))?;
        }
        tend.perform().map_err(|mut error| {
            lockspaces.inspection.name_holder(requester, &mut error);
            lockspaces.refusals.describe_refusal(requester, error.into())
        })?;
        let done = if removes { "removed" } else { "created" };
        tracing::info!(
            "{done} {}",
            lock::model::lease_name::spoken(&lock::text::escape::shown(&resource))
        );
        Ok(())
    }
}

//! Leases that callers name: found, made, and removed.
//!
//! A lease is a file in a lockspace that somebody has made for it: asking for one that is not there
//! makes none, since a misspelt name would protect nothing. Its lockspace is opened anew where its path
//! leads to another directory by now, as shared storage that was mounted since does.

use std::sync::Arc;

use super::lockspaces::no_such;
use crate::inspector::Requester;
use crate::lock::acquire::Tend;
use crate::lock::acquire::probe::ProbeKey;
use crate::lock::lockspace::LockspaceKind;
use crate::lock::lockspace::key::Key;
use crate::lock::model::lease_name::LeaseName;
use crate::lock::model::refusal::{Holder, Stranger};
use crate::lock::request::{Asked, Work};
use crate::lock::text::escape::shown_path;
use crate::lock::{self, Lock, Mode};
use crate::service::process::views::{CallerProcess, named_lease};
use crate::service::{Error, Service};

impl Service {
    /// The key of that name, whether or not there is a file for it. For a storage thread.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchLockspace`], and what opening its directory says.
    pub(in crate::service) fn find_lease(&self, name: &LeaseName) -> Result<Key, Error> {
        let there = self.lockspace(name.directory()).ok_or_else(|| no_such(name.directory()))?;
        let there = self.renew_lockspace(there)?;
        // Somebody else was asked, if anybody, and about one mode.
        Ok(Key::new(there, name.key(), false)?.for_one_mode())
    }

    /// The same, where the directory of the lease has to be the same for its caller. For a storage
    /// thread.
    fn find_lease_for(&self, caller: &Arc<CallerProcess>, name: &LeaseName) -> Result<Key, Error> {
        let named = named_lease(caller, name);
        let key = self.find_lease(name);
        let key = key.map_err(|error| self.explain_missing(Some(&named), error))?;
        if let Some(directory) = key.lockspace().directory() {
            self.check_lockspace(caller, name.directory(), directory)?;
        }
        Ok(key)
    }

    /// What a lease of that name is. It has to be there.
    ///
    /// # Errors
    ///
    /// As for [`Self::find_lease`]; [`lock::Error::Missing`].
    pub async fn resolve_lease(
        &self,
        caller: &Arc<CallerProcess>,
        name: LeaseName,
    ) -> Result<Key, Error> {
        let find = Find { service: self.clone(), caller: Arc::clone(caller), name };
        self.storage().run_for(caller.uid(), find).await?
    }

    /// Returns the holders of a lease: owners, or else those for which it is reserved, and a foreign
    /// holder.
    ///
    /// # Errors
    ///
    /// As for [`Self::resolve_lease`].
    pub async fn probe_lease(
        &self,
        caller: &Arc<CallerProcess>,
        name: LeaseName,
    ) -> Result<(Vec<Lock>, Vec<Holder>, Option<Stranger>), Error> {
        let key = self.resolve_lease(caller, name).await?;
        let locks = self.locks_on(key.identity(), &[]);
        if !locks.is_empty() {
            return Ok((locks, Vec::new(), None));
        }
        let reserved = self.reserved_holders(key.identity(), &[]);
        let probe = ProbeKey { key, host: self.host() };
        Ok((locks, reserved, self.storage().run_for(caller.uid(), probe).await??))
    }

    /// Makes a lease. One that is there stays as it is.
    ///
    /// # Errors
    ///
    /// As for [`Self::find_lease`]; [`lock::Error::Configured`], and what making the file says.
    pub async fn create_lease(
        &self,
        caller: &Arc<CallerProcess>,
        name: LeaseName,
    ) -> Result<(), Error> {
        let (uid, caller) = (caller.uid(), Arc::clone(caller));
        let deed = Deed { service: self.clone(), caller, name, tend: Tend::Make };
        self.storage().run_for(uid, deed).await?
    }

    /// Removes a lease, while nobody has it locked.
    ///
    /// # Errors
    ///
    /// As for [`Self::resolve_lease`]; [`lock::Error::Configured`]; [`Error::Held`],
    /// [`Error::HeldElsewhere`]; [`lock::Error::NotLockable`] for a file that is not empty.
    pub async fn remove_lease(
        &self,
        caller: &Arc<CallerProcess>,
        name: LeaseName,
    ) -> Result<(), Error> {
        let (uid, caller) = (caller.uid(), Arc::clone(caller));
        let deed = Deed { service: self.clone(), caller, name, tend: Tend::Remove };
        self.storage().run_for(uid, deed).await?
    }
}

/// What a request for a lease asks: the directory of its lockspace, if there is that lockspace.
fn asks_of<'n>(service: &Service, name: &'n LeaseName) -> Vec<Asked<'n>> {
    let there = service.lockspace(name.directory());
    there.map(|_| Asked::path(name.directory())).into_iter().collect()
}

struct Find {
    service: Service,
    caller: Arc<CallerProcess>,
    name: LeaseName,
}

impl Work for Find {
    type Answer = Result<Key, Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        asks_of(&self.service, &self.name)
    }

    fn perform(self) -> Self::Answer {
        let key = self.service.find_lease_for(&self.caller, &self.name)?;
        key.find_file()?;
        Ok(key)
    }
}

struct Deed {
    service: Service,
    caller: Arc<CallerProcess>,
    name: LeaseName,
    tend: fn(Key) -> Tend,
}

impl Work for Deed {
    type Answer = Result<(), Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        asks_of(&self.service, &self.name)
    }

    fn perform(self) -> Self::Answer {
        let Self { service, caller, name, tend } = self;
        let requester = Requester::User(caller.uid());
        let key = service.find_lease_for(&caller, &name)?;
        if key.lockspace().kind() == LockspaceKind::File {
            // What is in there comes and goes with the locks on disks.
            return Err(lock::Error::Configured(shown_path(name.directory())).into());
        }
        let (resource, tend) = (key.resource(), tend(key.clone()));
        let removes = matches!(tend, Tend::Remove(_));
        if removes {
            key.find_file()?;
            let want = key.want(Mode::Exclusive);
            let taken = service.state().table.refuse_if_locked(&want);
            taken.map_err(|error| service.told(requester, error.into()))?;
        }
        tend.perform().map_err(|mut error| {
            service.name_holder_for(requester, &mut error);
            service.told(requester, error.into())
        })?;
        let done = if removes { "removed" } else { "created" };
        tracing::info!(
            "{done} {}",
            lock::model::lease_name::spoken(&lock::text::escape::shown(&resource))
        );
        Ok(())
    }
}

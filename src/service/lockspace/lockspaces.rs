//! Lockspace directories that clients create.
//!
//! A client of virtlockd's protocol names a lockspace once, when it starts, and uses it for as long
//! as it lives; a D-Bus caller creates a lockspace once, for good. So lockspaces are recorded in
//! the state file and restored after a restart of the service. A lockspace is removed by command
//! only, and only while it is unused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::inspector::Requester;
use crate::lock::lockspace::directory::Directory;
use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::path::open::Links;
use crate::lock::request::{Asked, Work};
use crate::lock::text::escape::shown_path;
use crate::lock::{self, Event};
use crate::service::core::error::Error;
use crate::service::core::limits::within;
use crate::service::holder::refusals::Refusals;
use crate::service::io::executor::Executor;
use crate::service::lockspace::check::LockspaceChecks;
use crate::service::lockspace::lookup::{no_such, plain};
use crate::service::persist::journal::Journal;
use crate::service::process::Inspection;
use crate::service::process::caller::CallerProcess;
use crate::service::state::SharedState;
use crate::service::state::events::Publication;

/// The maximum number of lockspaces; libvirt needs far fewer.
const LIMIT: usize = 256;

/// The lockspaces that clients create, and the leases in them.
#[derive(Debug)]
pub struct Lockspaces {
    pub(in crate::service) state: SharedState,
    pub(in crate::service) journal: Arc<Journal>,
    pub(in crate::service) executor: Arc<Executor>,
    pub(in crate::service) inspection: Arc<Inspection>,
    pub(in crate::service) refusals: Arc<Refusals>,
    pub(in crate::service) checks: Arc<LockspaceChecks>,
}

impl Lockspaces {
    /// Creates a lockspace of a directory. Returns an existing one unchanged.
    ///
    /// # Errors
    ///
    /// As for [`Self::make`].
    pub async fn create(
        self: &Arc<Self>,
        caller: &Arc<CallerProcess>,
        directory: PathBuf,
        links: Links,
    ) -> Result<LockspaceKind, Error> {
        let (uid, caller) = (caller.uid(), Arc::clone(caller));
        let create = Create { lockspaces: Arc::clone(self), caller, directory, links };
        let (kind, publication) = self.executor.run_for(uid, create).await??;
        publication.wait().await;
        Ok(kind)
    }

    /// Removes a lockspace and its directory, if the directory is empty and nothing uses the
    /// lockspace.
    ///
    /// # Errors
    ///
    /// [`lock::Error::NoSuchLockspace`], [`lock::Error::Configured`]; [`Error::Held`] and
    /// [`lock::Error::LockspaceInUse`]; [`lock::Error::System`] if the directory is not empty or
    /// cannot be removed; [`Error::Keep`].
    pub async fn remove(
        self: &Arc<Self>,
        caller: &Arc<CallerProcess>,
        directory: PathBuf,
    ) -> Result<(), Error> {
        let remove = Remove { lockspaces: Arc::clone(self), caller: Arc::clone(caller), directory };
        self.executor.run_for(caller.uid(), remove).await??.wait().await;
        Ok(())
    }

    /// Returns the lockspace of a directory, and creates it if it is missing; `links` says how
    /// symbolic links on the path are handled. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`lock::Error::Lockspace`], [`Error::Limit`], [`Error::Keep`].
    pub fn make(&self, directory: &Path, links: Links) -> Result<(Lockspace, Publication), Error> {
        let existing = self.state.lock().lockspace(directory);
        if let Some(existing) = existing {
            let existing = self.renew(existing)?;
            self.checks.test_now(&existing);
            return Ok((existing, self.state.lock().events.so_far()));
        }
        let count = self.state.lock().lockspaces.len() + 1;
        within("lockspaces", count, LIMIT, || "in total".to_owned())?;
        let path = plain(directory);
        let opened = Arc::new(Directory::make(&path, links)?);
        let number = {
            let mut state = self.state.lock();
            // Another request may have created it meanwhile.
            let twin = state.lockspaces.iter().find(|(_, existing)| existing.path() == path);
            if let Some((number, existing)) = twin {
                let twin = Lockspace::Lease(*number, Arc::clone(existing));
                // The other request may not have published it yet.
                return Ok((twin, state.events.publish(vec![Event::LockspacesChanged])));
            }
            let number = state.next_lockspace();
            state.lockspaces.insert(number, Arc::clone(&opened));
            number
        };
        if let Err(error) = self.journal.put_lockspace(number, &path) {
            self.state.lock().lockspaces.remove(&number);
            return Err(error);
        }
        let publication = self.state.lock().events.publish(vec![Event::LockspacesChanged]);
        tracing::info!("created lockspace {} in {}", number, shown_path(&path));
        let made = Lockspace::Lease(number, opened);
        // The caller may remove the lockspace at once, and no file of the self-test may lie in it
        // then.
        self.checks.test_now(&made);
        Ok((made, publication))
    }

    /// Returns the lockspace, opened again if its path leads to another directory by now. Locks in
    /// the previous directory stay there. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// As for [`Self::make`].
    pub fn renew(&self, lockspace: Lockspace) -> Result<Lockspace, Error> {
        let Some(directory) = lockspace.directory() else { return Ok(lockspace) };
        if directory.is_there()? {
            return Ok(lockspace);
        }
        let opened = Arc::new(Directory::open(directory.path())?);
        let mut state = self.state.lock();
        Ok(match lockspace {
            Lockspace::Lease(number, _) => {
                // It may have been removed meanwhile.
                let existing = state.lockspaces.get_mut(&number);
                *existing.ok_or_else(|| no_such(opened.path()))? = Arc::clone(&opened);
                Lockspace::Lease(number, opened)
            }
            configured => {
                state.settings.lockspaces.renew(configured.kind(), &opened);
                configured.kind().lockspace(opened)
            }
        })
    }

    /// Removes a lockspace and its directory. Call it on a worker thread.
    fn remove_here(&self, directory: &Path) -> Result<Publication, Error> {
        let (number, existing) = {
            let mut state = self.state.lock();
            state.check_open()?;
            let path = plain(directory);
            let mut named = state.lockspaces.iter();
            let named = named.find(|(_, existing)| existing.path() == path);
            let Some((number, existing)) =
                named.map(|(number, existing)| (*number, Arc::clone(existing)))
            else {
                drop(state);
                return Err(match self.state.lock().lockspace(directory) {
                    Some(_) => lock::Error::Configured(shown_path(directory)).into(),
                    None => no_such(directory),
                });
            };
            let kind = LockspaceKind::Lease(number);
            state.table.refuse_if_used(kind, &shown_path(existing.path()))?;
            // Under the same lock of the state, so that no request starts to use it.
            state.lockspaces.remove(&number);
            (number, existing)
        };
        self.checks.wait_for_test(&existing);
        if let Err(error) = existing.remove() {
            self.state.lock().lockspaces.insert(number, existing);
            return Err(error.into());
        }
        if let Err(error) = self.journal.forget_lockspace(number) {
            // It is restored after a restart, without its directory, and can then be removed again.
            tracing::error!(%error, "cannot remove the record of lockspace {number}");
        }
        let gone = Event::LockspaceRemoved(LockspaceKind::Lease(number));
        let publication = self.state.lock().events.publish(vec![gone]);
        tracing::info!("removed lockspace {} in {}", number, shown_path(existing.path()));
        Ok(publication)
    }
}

struct Create {
    lockspaces: Arc<Lockspaces>,
    caller: Arc<CallerProcess>,
    directory: PathBuf,
    links: Links,
}

impl Work for Create {
    type Answer = Result<(LockspaceKind, Publication), Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        vec![Asked::path(&self.directory)]
    }

    fn perform(self) -> Self::Answer {
        self.lockspaces.inspection.check_directory(&self.caller, &self.directory, self.links)?;
        let made = self.lockspaces.make(&self.directory, self.links);
        made.map(|(lockspace, publication)| (lockspace.kind(), publication))
    }
}

struct Remove {
    lockspaces: Arc<Lockspaces>,
    caller: Arc<CallerProcess>,
    directory: PathBuf,
}

impl Work for Remove {
    type Answer = Result<Publication, Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        vec![Asked::path(&self.directory)]
    }

    fn perform(self) -> Self::Answer {
        let Self { lockspaces, caller, directory } = self;
        lockspaces.inspection.check_directory(&caller, &directory, Links::Follow)?;
        let taken = lockspaces.remove_here(&directory);
        taken.map_err(|error| lockspaces.refusals.describe_refusal(Requester::Service, error))
    }
}

//! Lockspace directories that clients create.
//!
//! A client of virtlockd's protocol names a lockspace once, when it starts, and uses it for as long
//! as it lives; a D-Bus caller creates a lockspace once, for good. So lockspaces are recorded in
//! the state file and restored after a restart of the service. A lockspace is removed by command
//! only, and only while it is unused.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::inspector::Requester;
use crate::lock::lockspace::directory::Directory;
use crate::lock::lockspace::{Lockspace, LockspaceKind};
use crate::lock::path::open::Links;
use crate::lock::request::{Asked, Work};
use crate::lock::text::escape::shown_path;
use crate::lock::{self, Event, Want};
use crate::service::core::limits::within;
use crate::service::core::state::State;
use crate::service::process::views::CallerProcess;
use crate::service::{Error, Publication, Service};

/// The maximum number of lockspaces; libvirt needs far fewer.
const LIMIT: usize = 256;

impl Service {
    /// Returns the lockspace of a directory, if there is one.
    #[must_use]
    pub fn lockspace(&self, directory: &Path) -> Option<Lockspace> {
        let directory = plain(directory);
        let state = self.state();
        let there = |lockspace: &Lockspace| {
            lockspace.directory().is_some_and(|there| plain(there.path()) == directory)
        };
        state.settings.lockspaces.configured().find(there).or_else(|| {
            let mut named = state.lockspaces.iter();
            let named = named.find(|(_, there)| there.path() == directory);
            named.map(|(number, there)| Lockspace::Lease(*number, Arc::clone(there)))
        })
    }

    /// Creates a lockspace of a directory. Returns an existing one unchanged.
    ///
    /// # Errors
    ///
    /// As for [`Self::make_lockspace`].
    pub async fn create_lockspace(
        &self,
        caller: &Arc<CallerProcess>,
        directory: PathBuf,
        links: Links,
    ) -> Result<LockspaceKind, Error> {
        let (uid, caller) = (caller.uid(), Arc::clone(caller));
        let create = Create { service: self.clone(), caller, directory, links };
        let (kind, shown) = self.storage().run_for(uid, create).await??;
        shown.wait().await;
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
    pub async fn remove_lockspace(
        &self,
        caller: &Arc<CallerProcess>,
        directory: PathBuf,
    ) -> Result<(), Error> {
        let remove = Remove { service: self.clone(), caller: Arc::clone(caller), directory };
        self.storage().run_for(caller.uid(), remove).await??.wait().await;
        Ok(())
    }

    /// Returns the lockspace of a directory, and creates it if it is missing; `links` says how
    /// symbolic links on the path are handled. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`lock::Error::Lockspace`], [`Error::Limit`], [`Error::Keep`].
    pub fn make_lockspace(
        &self,
        directory: &Path,
        links: Links,
    ) -> Result<(Lockspace, Publication), Error> {
        if let Some(there) = self.lockspace(directory) {
            let there = self.renew_lockspace(there)?;
            self.examine_now(&there);
            return Ok((there, self.state().so_far()));
        }
        let count = self.state().lockspaces.len() + 1;
        within("lockspaces", count, LIMIT, || "in total".to_owned())?;
        let path = plain(directory);
        let opened = Arc::new(Directory::make(&path, links)?);
        let number = {
            let mut state = self.state();
            // Another request may have created it meanwhile.
            let twin = state.lockspaces.iter().find(|(_, there)| there.path() == path);
            if let Some((number, there)) = twin {
                let twin = Lockspace::Lease(*number, Arc::clone(there));
                // The other request may not have published it yet.
                return Ok((twin, state.publish(vec![Event::LockspacesChanged])));
            }
            let number = state.next_lockspace();
            state.lockspaces.insert(number, Arc::clone(&opened));
            number
        };
        if let Err(error) = self.keep().put_lockspace(number, &path) {
            self.state().lockspaces.remove(&number);
            return Err(error);
        }
        let shown = self.state().publish(vec![Event::LockspacesChanged]);
        tracing::info!("created lockspace {} in {}", number, shown_path(&path));
        let made = Lockspace::Lease(number, opened);
        // The caller may remove the lockspace at once, and no file of the self-test may lie in it
        // then.
        self.examine_now(&made);
        Ok((made, shown))
    }

    /// Returns the lockspace, opened again if its path leads to another directory by now. Locks in
    /// the previous directory stay there. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// As for [`Self::make_lockspace`].
    pub fn renew_lockspace(&self, lockspace: Lockspace) -> Result<Lockspace, Error> {
        let Some(directory) = lockspace.directory() else { return Ok(lockspace) };
        if directory.is_there()? {
            return Ok(lockspace);
        }
        let opened = Arc::new(Directory::open(directory.path())?);
        let mut state = self.state();
        Ok(match lockspace {
            Lockspace::Lease(number, _) => {
                // It may have been removed meanwhile.
                let there = state.lockspaces.get_mut(&number);
                *there.ok_or_else(|| no_such(opened.path()))? = Arc::clone(&opened);
                Lockspace::Lease(number, opened)
            }
            configured => {
                state.settings.lockspaces.renew(configured.kind(), &opened);
                configured.kind().lockspace(opened)
            }
        })
    }

    /// Removes a lockspace and its directory. Call it on a worker thread.
    fn take_lockspace_away(&self, directory: &Path) -> Result<Publication, Error> {
        let (number, there) = {
            let mut state = self.state();
            state.check_open()?;
            let path = plain(directory);
            let mut named = state.lockspaces.iter();
            let named = named.find(|(_, there)| there.path() == path);
            let Some((number, there)) = named.map(|(number, there)| (*number, Arc::clone(there)))
            else {
                drop(state);
                return Err(match self.lockspace(directory) {
                    Some(_) => lock::Error::Configured(shown_path(directory)).into(),
                    None => no_such(directory),
                });
            };
            let kind = LockspaceKind::Lease(number);
            state.table.refuse_if_used(kind, &shown_path(there.path()))?;
            // Under the same lock of the state, so that no request starts to use it.
            state.lockspaces.remove(&number);
            (number, there)
        };
        self.examined(&there);
        if let Err(error) = there.remove() {
            self.state().lockspaces.insert(number, there);
            return Err(error.into());
        }
        if let Err(error) = self.keep().forget_lockspace(number) {
            // It is restored after a restart, without its directory, and can then be removed again.
            tracing::error!(%error, "cannot remove the record of lockspace {number}");
        }
        let gone = Event::LockspaceRemoved(LockspaceKind::Lease(number));
        let shown = self.state().publish(vec![gone]);
        tracing::info!("removed lockspace {} in {}", number, shown_path(there.path()));
        Ok(shown)
    }

    /// Returns the directory of a lockspace; `None` if it does not exist or is no longer
    /// configured.
    #[must_use]
    pub fn directory_of(&self, kind: LockspaceKind) -> Option<PathBuf> {
        let state = self.state();
        let directory = match kind {
            LockspaceKind::Direct => None,
            LockspaceKind::File => state.settings.lockspaces.file.as_ref(),
            LockspaceKind::Lvm => state.settings.lockspaces.lvm.as_ref(),
            LockspaceKind::Scsi => state.settings.lockspaces.scsi.as_ref(),
            LockspaceKind::Lease(number) => state.lockspaces.get(&number),
        };
        directory.map(|directory| directory.path().to_owned())
    }

    /// Returns all lockspaces except the direct one, with their directories; a lockspace that is no
    /// longer configured but has locks has none.
    #[must_use]
    pub fn lockspaces(&self) -> Vec<(LockspaceKind, Option<PathBuf>)> {
        let state = self.state();
        let mut configured: HashMap<LockspaceKind, PathBuf> = HashMap::new();
        for lockspace in state.settings.lockspaces.configured() {
            let directory = lockspace.directory().map(|there| there.path().to_owned());
            configured.extend(directory.map(|directory| (lockspace.kind(), directory)));
        }
        let in_use = |kind| state.table.locks().any(|lock| lock.want.lockspace == kind);
        let there = LockspaceKind::CONFIGURED.map(|kind| (kind, configured.remove(&kind)));
        let there = there.into_iter().filter(|(kind, path)| path.is_some() || in_use(*kind));
        let named = state.lockspaces.iter();
        let named = named
            .map(|(number, there)| (LockspaceKind::Lease(*number), Some(there.path().to_owned())));
        there.chain(named).collect()
    }
}

impl State {
    /// Returns a number for a lockspace that was never used before.
    fn next_lockspace(&mut self) -> u32 {
        let last = self.lockspaces.keys().next_back().copied().unwrap_or_default();
        self.last_lockspace = self.last_lockspace.max(last) + 1;
        self.last_lockspace
    }

    /// Refuses targets that were found in a lockspace that was removed since.
    pub(in crate::service) fn check_lockspaces(&self, wants: &[Want]) -> Result<(), Error> {
        let gone = |want: &&Want| match want.lockspace {
            LockspaceKind::Lease(number) => !self.lockspaces.contains_key(&number),
            LockspaceKind::Direct
            | LockspaceKind::File
            | LockspaceKind::Lvm
            | LockspaceKind::Scsi => false,
        };
        let Some(want) = wants.iter().find(gone) else { return Ok(()) };
        let file = want.lock_files.first().and_then(|file| file.parent());
        Err(no_such(file.unwrap_or(Path::new(""))))
    }
}

struct Create {
    service: Service,
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
        self.service.check_directory(&self.caller, &self.directory, self.links)?;
        let made = self.service.make_lockspace(&self.directory, self.links);
        made.map(|(lockspace, shown)| (lockspace.kind(), shown))
    }
}

struct Remove {
    service: Service,
    caller: Arc<CallerProcess>,
    directory: PathBuf,
}

impl Work for Remove {
    type Answer = Result<Publication, Error>;

    fn asks(&self) -> Vec<Asked<'_>> {
        vec![Asked::path(&self.directory)]
    }

    fn perform(self) -> Self::Answer {
        let Self { service, caller, directory } = self;
        service.check_directory(&caller, &directory, Links::Follow)?;
        let taken = service.take_lockspace_away(&directory);
        taken.map_err(|error| service.describe_refusal(Requester::Service, error))
    }
}

pub(in crate::service) fn no_such(directory: &Path) -> Error {
    lock::Error::NoSuchLockspace(shown_path(directory)).into()
}

/// Returns a path without double slashes, slashes at the end and `.` components.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

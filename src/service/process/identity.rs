//! The identity and the user of processes, as an inspector reports them: the service itself reads
//! nothing of other processes.

use std::sync::Arc;

use crate::inspector::ProcessIdentity;
use crate::inspector::{Requester, timeouts};
use crate::life::{self, Process};
use crate::lock::OwnerId;
use crate::lock::request::Work;
use crate::service::core::error::Error;
use crate::service::process::Inspection;
use crate::service::report::describe::Users;

impl Inspection {
    /// Returns the identity of a live process. Call it on a worker thread.
    ///
    /// # Errors
    ///
    /// [`Error::Inspector`]; [`life::Error::NoSuchProcess`] if it has ended.
    pub(in crate::service) fn identity(
        &self,
        requester: Requester,
        process: &Process,
    ) -> Result<ProcessIdentity, Error> {
        let pid = process.pid();
        let found = self.inspector.identify(requester, vec![pid], timeouts::query());
        process.check_alive()?;
        let found = found.map_err(Error::Inspector)?.into_iter().flatten().next();
        found.ok_or_else(|| life::Error::NoSuchProcess(pid).into())
    }

    /// Returns the user of a process, on behalf of a user that binds the process to an owner.
    ///
    /// # Errors
    ///
    /// As for [`Self::identity`].
    pub async fn identify(
        self: &Arc<Self>,
        uid: u32,
        process: Process,
    ) -> Result<(Process, ProcessIdentity), Error> {
        let requester = Requester::User(uid);
        let permit =
            self.inspector_permit(requester, timeouts::query()).await.map_err(Error::Inspector)?;
        self.run_with_permit(permit, Identify { inspection: Arc::clone(self), requester, process })
            .await?
    }

    /// Adds to a process the data by which it is found after a crash without a descriptor store, if
    /// the kernel does not number pidfds. Call it on a worker thread.
    pub(in crate::service) fn with_start_time_of(
        &self,
        requester: Requester,
        process: Process,
    ) -> Process {
        if process.inode().is_ok_and(|inode| inode != 0) {
            return process;
        }
        match self.identity(requester, &process) {
            Ok(identity) => process.with_start_time(identity.start),
            // If its descriptor is lost, the process that then has the number is taken for it.
            Err(error) => {
                tracing::debug!(%error, pid = process.pid(), "cannot read the start time of process {}", process.pid());
                process
            }
        }
    }

    /// Returns the users that run the processes of root's owners: libvirt's owners belong to root,
    /// and their processes run as another user. A user that is not known in time is missing. Call
    /// it on a worker thread.
    pub(in crate::service) fn users_of(
        &self,
        requester: Requester,
        owners: impl IntoIterator<Item = (OwnerId, u32)>,
    ) -> Users {
        let pids = owners.into_iter().filter(|(id, pid)| id.uid == 0 && *pid != 0);
        let pids: Vec<u32> = pids.map(|(_, pid)| pid).collect();
        if pids.is_empty() {
            return Users::new();
        }
        let found = self.inspector.identify(requester, pids.clone(), timeouts::remark());
        let found = pids.into_iter().zip(found.unwrap_or_default());
        found.filter_map(|(pid, identity)| Some((pid, identity?.uid()))).collect()
    }
}

/// Finds the user of a process, for a caller that binds the process to an owner.
#[derive(Debug)]
struct Identify {
    inspection: Arc<Inspection>,
    requester: Requester,
    process: Process,
}

impl Work for Identify {
    type Answer = Result<(Process, ProcessIdentity), Error>;

    fn perform(self) -> Self::Answer {
        let Self { inspection, requester, process } = self;
        let identity = inspection.identity(requester, &process)?;
        Ok((process.with_start_time(identity.start), identity))
    }
}

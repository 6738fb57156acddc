//! `org.vmlockd1.Owner`: a VM, or another process that locks disks.
//!
//! `Acquire` shows the path of every method: [`OwnerObject::accept`] authorizes the command, and
//! [`request::acquire`](crate::dbus::request::acquire) authorizes the resources and calls the
//! service.

use std::collections::BTreeSet;
use std::sync::Arc;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{ObjectPath, OwnedObjectPath, fdo};

use crate::auth::authorizer::Call;
use crate::auth::methods::OWNER;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::dbus::reply::dictionary::{anchor_kinds, suspended_resources, suspended_size_bound};
use crate::dbus::reply::large::PROPERTY_MAX;
use crate::dbus::request::acquire::{AcquireOptions, acquire, roll_back_if_disconnected};
use crate::dbus::request::anchor::{authorize_process, find_process};
use crate::dbus::request::authorize::{
    VmDetails, authorize_owner, authorize_release, authorize_release_all,
};
use crate::dbus::request::options::{Options, RawOptions, receive_descriptor};
use crate::life::Process;
use crate::lock::{self, Owner, OwnerId};
use crate::paths;
use crate::service::OwnerRelease;

/// The object of an owner.
#[derive(Debug)]
pub(crate) struct OwnerObject {
    context: Arc<Context>,
    /// The owner when it was opened, for properties that never change.
    opened: Owner,
}

impl OwnerObject {
    /// Creates the object of an owner.
    #[must_use]
    pub(crate) fn new(context: Arc<Context>, opened: Owner) -> Self {
        Self { context, opened }
    }

    fn id(&self) -> OwnerId {
        self.opened.id
    }

    fn vm(&self) -> VmDetails<'_> {
        VmDetails::new(self.id(), &self.opened.name)
    }

    /// Accepts a call, and authorizes it to command this owner.
    async fn accept<'c>(&'c self, header: &'c Header<'c>, member: &str) -> Result<Call<'c>, Error> {
        let call = self.context.auth.accept(header, OWNER, member).await?;
        authorize_owner(&self.context, &call, self.id()).await?;
        Ok(call)
    }

    /// Accepts a call that releases locks of this owner. Its locks are authorized later.
    async fn accept_release<'c>(
        &'c self,
        header: &'c Header<'c>,
        member: &str,
    ) -> Result<Call<'c>, Error> {
        Ok(self.context.auth.accept(header, OWNER, member).await?)
    }

    /// Returns the request of a caller that is authorized to release these locks.
    fn release_all<'r>(
        &self,
        call: &Call<'_>,
        authorized: &'r BTreeSet<u64>,
        force: bool,
    ) -> OwnerRelease<'r> {
        OwnerRelease { owner: self.id(), authorized, by: call.uid(), force }
    }

    /// Reads the current state of the owner; `None` if it has ended.
    fn read<T>(&self, read: impl FnOnce(&Owner) -> T) -> Option<T> {
        self.context.service.read_owner(self.id(), read)
    }

    async fn bind(&self, call: &Call<'_>, process: Process) -> Result<(), Error> {
        let anchor = authorize_process(&self.context, call, &self.vm(), process, None).await?;
        Ok(self.context.service.bind(self.id(), anchor).await?)
    }
}

// zbus makes a method of every getter, whether or not it reads the object.
#[allow(clippy::unused_self)]
#[zbus::interface(name = "org.vmlockd1.Owner", introspection_docs = false)]
impl OwnerObject {
    #[zbus(out_args("locks"))]
    async fn acquire(
        &self,
        #[zbus(header)] header: Header<'_>,
        resources: Vec<(String, String)>,
        options: RawOptions,
    ) -> Result<Vec<OwnedObjectPath>, Error> {
        let call = self.accept(&header, "Acquire").await?;
        let options = AcquireOptions::parse(options)?;
        let owner = (self.id(), self.opened.name.as_str());
        let locks = acquire(&self.context, &call, owner, &resources, Vec::new(), options).await?;
        Ok(locks.into_iter().map(paths::lock).collect())
    }

    #[zbus(out_args("locks"))]
    async fn acquire_with_files(
        &self,
        #[zbus(header)] header: Header<'_>,
        resources: Vec<(String, String)>,
        files: Vec<(zbus::OwnedFd, String)>,
        options: RawOptions,
    ) -> Result<Vec<OwnedObjectPath>, Error> {
        let call = self.accept(&header, "AcquireWithFiles").await?;
        let options = AcquireOptions::parse(options)?;
        let owner = (self.id(), self.opened.name.as_str());
        let locks = acquire(&self.context, &call, owner, &resources, files, options).await?;
        Ok(locks.into_iter().map(paths::lock).collect())
    }

    async fn release(
        &self,
        #[zbus(header)] header: Header<'_>,
        locks: Vec<OwnedObjectPath>,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept_release(&header, "Release").await?;
        let mut options = Options::new(options);
        let force = options.flag("force")?;
        options.finish()?;
        let owner = self.context.owner(self.id())?;
        let number = |path: &OwnedObjectPath| {
            let path = path.as_str();
            let no_such = || Error::no_such_lock(format!("{path} is not a lock"));
            paths::lock_number(path).ok_or_else(no_such)
        };
        let locks = locks.iter().map(number).collect::<Result<Vec<u64>, Error>>()?;
        if call.uid() != self.id().uid {
            authorize_release(&self.context, &call, &owner, locks.iter().copied()).await?;
        }
        Ok(self.context.service.release(self.id(), &locks, call.uid(), force).await?)
    }

    #[zbus(out_args("lifeline"))]
    async fn new_lifeline(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<zbus::OwnedFd, Error> {
        let call = self.accept(&header, "NewLifeline").await?;
        Options::reject_all(options)?;
        call.count_lifeline()?;
        Ok(self.context.service.new_lifeline(self.id()).await?.into())
    }

    async fn bind_process(
        &self,
        #[zbus(header)] header: Header<'_>,
        process: zbus::OwnedFd,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept(&header, "BindProcess").await?;
        Options::reject_all(options)?;
        let process = Process::from_received(&receive_descriptor(&process)?)?;
        self.bind(&call, process).await
    }

    #[zbus(name = "BindPID")]
    async fn bind_pid(
        &self,
        #[zbus(header)] header: Header<'_>,
        pid: u32,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept(&header, "BindPID").await?;
        Options::reject_all(options)?;
        let process = find_process(&self.context, &call, pid).await?;
        self.bind(&call, process).await
    }

    async fn suspend(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept_release(&header, "Suspend").await?;
        let mut options = Options::new(options);
        let force = options.flag("force")?;
        options.finish()?;
        let authorized = authorize_release_all(&self.context, &call, self.id()).await?;
        Ok(self.context.service.suspend(self.release_all(&call, &authorized, force)).await?)
    }

    #[zbus(out_args("locks"))]
    async fn resume(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<Vec<OwnedObjectPath>, Error> {
        let call = self.accept(&header, "Resume").await?;
        let mut options = Options::new(options);
        let timeout = options.timeout()?;
        options.finish()?;
        let resumed = self.context.service.resume(self.id(), timeout.start(&call)).await;
        let granted = resumed.map_err(|error| {
            let error = Error::from(error);
            match self.read(|owner| owner.handed_to.is_some()) {
                Some(true) => {
                    error.with_detail("the locks of this owner were handed over to another owner")
                }
                _ => error,
            }
        })?;
        let (id, locks) = (self.id(), granted.locks.iter().copied().collect());
        let request = OwnerRelease { owner: id, authorized: &locks, by: id.uid, force: true };
        let suspend = || self.context.service.suspend(request);
        roll_back_if_disconnected(&self.context, &call, &granted, suspend).await?;
        Ok(granted.locks.into_iter().map(paths::lock).collect())
    }

    #[zbus(out_args("token"))]
    async fn offer(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<String, Error> {
        let call = self.accept_release(&header, "Offer").await?;
        let mut options = Options::new(options);
        let (force, timeout) = (options.flag("force")?, options.offer_timeout()?);
        options.finish()?;
        let authorized = authorize_release_all(&self.context, &call, self.id()).await?;
        let offer =
            self.context.service.offer(self.release_all(&call, &authorized, force), timeout);
        Ok(offer.await?.simple().to_string())
    }

    #[zbus(out_args("locks"))]
    async fn adopt(
        &self,
        #[zbus(header)] header: Header<'_>,
        token: String,
        options: RawOptions,
    ) -> Result<Vec<OwnedObjectPath>, Error> {
        let _call = self.accept(&header, "Adopt").await?;
        Options::reject_all(options)?;
        // A string that is no token belongs to no offer.
        let token = uuid::Uuid::try_parse(&token).map_err(|_| lock::Error::NoSuchOffer)?;
        let locks = self.context.service.adopt(self.id(), token).await?;
        Ok(locks.into_iter().map(paths::lock).collect())
    }

    /// Cancels the waiting requests and the offer of the owner.
    async fn cancel(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(), Error> {
        let _call = self.accept(&header, "Cancel").await?;
        Options::reject_all(options)?;
        self.context.service.cancel(self.id()).await?;
        Ok(())
    }

    async fn close(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept_release(&header, "Close").await?;
        let mut options = Options::new(options);
        let force = options.flag("force")?;
        options.finish()?;
        let authorized = authorize_release_all(&self.context, &call, self.id()).await?;
        Ok(self.context.service.close(self.release_all(&call, &authorized, force)).await?)
    }

    #[zbus(property(emits_changed_signal = "const"), name = "UUID")]
    fn uuid(&self) -> String {
        self.id().uuid.to_string()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.opened.name.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn why(&self) -> String {
        self.opened.why.clone()
    }

    #[zbus(property(emits_changed_signal = "const"), name = "UID")]
    fn uid(&self) -> u32 {
        self.id().uid
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn frontend(&self) -> &'static str {
        self.opened.front.as_str()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn on_lost(&self) -> &'static str {
        self.opened.on_lost.as_str()
    }

    #[zbus(property(emits_changed_signal = "const"), name = "SinceUSec")]
    fn since_usec(&self) -> u64 {
        self.opened.since
    }

    #[zbus(property, name = "PID")]
    fn pid(&self) -> u32 {
        self.read(Owner::pid).unwrap_or_else(|| self.opened.pid())
    }

    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.read(Owner::state).unwrap_or("running")
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn suspended(&self) -> fdo::Result<Vec<(String, &'static str)>> {
        let read = |owner: &Owner| {
            let fits = suspended_size_bound(owner) <= PROPERTY_MAX;
            fits.then(|| suspended_resources(owner))
        };
        self.read(read).unwrap_or_else(|| Some(Vec::new())).ok_or_else(|| {
            fdo::Error::LimitsExceeded(format!(
                "what owner {} has suspended is more than {} KiB: read it in pages with \
                 ListLocks and the options 'owner', 'suspended', 'limit' and 'after'",
                self.id(),
                PROPERTY_MAX >> 10
            ))
        })
    }

    #[zbus(property)]
    fn anchors(&self) -> Vec<&'static str> {
        self.read(anchor_kinds).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn locks(&self) -> Vec<OwnedObjectPath> {
        self.context.service.locks_of(self.id()).into_iter().map(paths::lock).collect()
    }

    #[zbus(signal)]
    pub(crate) async fn lock_acquired(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        resource: &str,
        mode: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(crate) async fn lock_released(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        resource: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(crate) async fn lock_lost(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        resource: &str,
        reason: &str,
    ) -> zbus::Result<()>;
}

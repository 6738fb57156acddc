//! `org.vmlockd1.Owner`: one machine.

use std::sync::Arc;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{ObjectPath, OwnedObjectPath, fdo};

use super::binding;
use super::bulk::PROPERTY_MAX;
use super::claims::{self, Machine};
use super::error::Error;
use super::facts;
use super::front::Front;
use super::options::{Options, Raw, received};
use super::waiting::{self, Timeout};
use crate::auth::authorizer::Call;
use crate::auth::methods::OWNER;
use crate::life::Process;
use crate::lock::in_use::InUse;
use crate::lock::{self, Mode, Owner, OwnerId};
use crate::paths;
use crate::service::NewAnchor;

/// An owner's object.
#[derive(Debug)]
pub(super) struct OwnerObject {
    front: Arc<Front>,
    /// As it was when it was opened: what never changes is answered from here.
    opened: Owner,
}

impl OwnerObject {
    /// The object of an owner.
    #[must_use]
    pub(super) fn new(front: Arc<Front>, opened: Owner) -> Self {
        Self { front, opened }
    }

    fn id(&self) -> OwnerId {
        self.opened.id
    }

    /// Lets a call in that commands this owner.
    async fn enter<'c>(&'c self, header: &'c Header<'c>, member: &str) -> Result<Call<'c>, Error> {
        let call = self.front.enter(header, OWNER, member).await?;
        self.front.command(&call, self.id()).await?;
        Ok(call)
    }

    /// Reads the owner as it is now; `None` where it has gone.
    fn now<T>(&self, read: impl FnOnce(&Owner) -> T) -> Option<T> {
        self.front.service.read_owner(self.id(), read)
    }

    async fn acquire_all(
        &self,
        call: &Call<'_>,
        resources: &[(String, String)],
        files: Vec<(zbus::OwnedFd, String)>,
        timeout: Timeout,
        in_use: InUse,
    ) -> Result<Vec<OwnedObjectPath>, Error> {
        let paths = claims::parse(&self.front, resources, files.len())?;
        let files = files
            .into_iter()
            .map(|(file, mode)| Ok((received(&file)?, mode.parse::<Mode>()?)))
            .collect::<Result<_, Error>>()?;
        let uuid = self.id().uuid.to_string();
        let machine = Machine { vm: &self.opened.name, uuid: &uuid };
        let asks = claims::find(&self.front, call, machine, paths, files, in_use).await?;
        let granted = self.front.service.acquire(self.id(), asks, timeout.begin(call)).await?;
        let locks = waiting::hand_out(&self.front, call, self.id(), granted).await?;
        Ok(locks.into_iter().map(paths::lock).collect())
    }

    async fn bind(&self, anchor: NewAnchor) -> Result<(), Error> {
        Ok(self.front.service.bind(self.id(), anchor).await?)
    }
}

// A getter is a method for zbus, whether or not it has to look at anything.
#[allow(clippy::unused_self)]
#[zbus::interface(name = "org.vmlockd1.Owner", introspection_docs = false)]
impl OwnerObject {
    #[zbus(out_args("locks"))]
    async fn acquire(
        &self,
        #[zbus(header)] header: Header<'_>,
        resources: Vec<(String, String)>,
        options: Raw,
    ) -> Result<Vec<OwnedObjectPath>, Error> {
        let call = self.enter(&header, "Acquire").await?;
        let mut options = Options::new(options);
        let (timeout, in_use) = (options.timeout()?, options.in_use()?);
        options.finish()?;
        self.acquire_all(&call, &resources, Vec::new(), timeout, in_use).await
    }

    #[zbus(out_args("locks"))]
    async fn acquire_with_files(
        &self,
        #[zbus(header)] header: Header<'_>,
        resources: Vec<(String, String)>,
        files: Vec<(zbus::OwnedFd, String)>,
        options: Raw,
    ) -> Result<Vec<OwnedObjectPath>, Error> {
        let call = self.enter(&header, "AcquireWithFiles").await?;
        let mut options = Options::new(options);
        let (timeout, in_use) = (options.timeout()?, options.in_use()?);
        options.finish()?;
        self.acquire_all(&call, &resources, files, timeout, in_use).await
    }

    async fn release(
        &self,
        #[zbus(header)] header: Header<'_>,
        locks: Vec<OwnedObjectPath>,
        options: Raw,
    ) -> Result<(), Error> {
        let call = self.front.enter(&header, OWNER, "Release").await?;
        let mut options = Options::new(options);
        let force = options.flag("force")?;
        options.finish()?;
        let owner = self.front.owner(self.id())?;
        let number = |path: &OwnedObjectPath| {
            let path = path.as_str();
            let no_such = || Error::no_such_lock(format!("{path} is not a lock"));
            paths::lock_number(path).ok_or_else(no_such)
        };
        let locks = locks.iter().map(number).collect::<Result<Vec<u64>, Error>>()?;
        if call.uid() != self.id().uid {
            self.front.ask_to_break(&call, &owner, locks.iter().copied()).await?;
        }
        Ok(self.front.service.release(self.id(), &locks, call.uid(), force).await?)
    }

    #[zbus(out_args("lifeline"))]
    async fn new_lifeline(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Raw,
    ) -> Result<zbus::OwnedFd, Error> {
        let call = self.enter(&header, "NewLifeline").await?;
        Options::none(options)?;
        call.count_lifeline()?;
        Ok(self.front.service.new_lifeline(self.id()).await?.into())
    }

    async fn bind_process(
        &self,
        #[zbus(header)] header: Header<'_>,
        process: zbus::OwnedFd,
        options: Raw,
    ) -> Result<(), Error> {
        let call = self.enter(&header, "BindProcess").await?;
        Options::none(options)?;
        let uuid = self.id().uuid.to_string();
        let machine = Machine { vm: &self.opened.name, uuid: &uuid };
        let process = Process::by_received(&received(&process)?)?;
        self.bind(binding::anchor(&self.front, &call, machine, process, None).await?).await
    }

    #[zbus(name = "BindPID")]
    async fn bind_pid(
        &self,
        #[zbus(header)] header: Header<'_>,
        pid: u32,
        options: Raw,
    ) -> Result<(), Error> {
        let call = self.enter(&header, "BindPID").await?;
        Options::none(options)?;
        let uuid = self.id().uuid.to_string();
        let machine = Machine { vm: &self.opened.name, uuid: &uuid };
        let process = binding::by_pid(&self.front, &call, pid).await?;
        self.bind(binding::anchor(&self.front, &call, machine, process, None).await?).await
    }

    async fn suspend(&self, #[zbus(header)] header: Header<'_>, options: Raw) -> Result<(), Error> {
        let call = self.front.enter(&header, OWNER, "Suspend").await?;
        let mut options = Options::new(options);
        let force = options.flag("force")?;
        options.finish()?;
        let asked = self.front.ask_to_take(&call, self.id()).await?;
        Ok(self.front.service.suspend(self.id(), &asked, call.uid(), force).await?)
    }

    #[zbus(out_args("locks"))]
    async fn resume(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Raw,
    ) -> Result<Vec<OwnedObjectPath>, Error> {
        let call = self.enter(&header, "Resume").await?;
        let mut options = Options::new(options);
        let timeout = options.timeout()?;
        options.finish()?;
        let resumed = self.front.service.resume(self.id(), timeout.begin(&call)).await;
        let granted = resumed.map_err(|error| {
            let error = Error::from(error);
            match self.now(|owner| owner.handed_to.is_some()) {
                Some(true) => {
                    error.and("the locks of this owner were handed over to another owner")
                }
                _ => error,
            }
        })?;
        let locks = waiting::hand_out_again(&self.front, &call, self.id(), granted).await?;
        Ok(locks.into_iter().map(paths::lock).collect())
    }

    #[zbus(out_args("token"))]
    async fn offer(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Raw,
    ) -> Result<String, Error> {
        let call = self.front.enter(&header, OWNER, "Offer").await?;
        let mut options = Options::new(options);
        let (force, patience) = (options.flag("force")?, options.patience()?);
        options.finish()?;
        let asked = self.front.ask_to_take(&call, self.id()).await?;
        let offer = self.front.service.offer(self.id(), &asked, call.uid(), force, patience);
        Ok(offer.await?.simple().to_string())
    }

    #[zbus(out_args("locks"))]
    async fn adopt(
        &self,
        #[zbus(header)] header: Header<'_>,
        token: String,
        options: Raw,
    ) -> Result<Vec<OwnedObjectPath>, Error> {
        let _call = self.enter(&header, "Adopt").await?;
        Options::none(options)?;
        // What is no token is the token of no offer.
        let token = uuid::Uuid::try_parse(&token).map_err(|_| lock::Error::NoSuchOffer)?;
        let locks = self.front.service.adopt(self.id(), token).await?;
        Ok(locks.into_iter().map(paths::lock).collect())
    }

    /// Withdraws what the owner waits for, and what it offers.
    async fn cancel(&self, #[zbus(header)] header: Header<'_>, options: Raw) -> Result<(), Error> {
        let _call = self.enter(&header, "Cancel").await?;
        Options::none(options)?;
        self.front.service.cancel(self.id()).await?;
        Ok(())
    }

    async fn close(&self, #[zbus(header)] header: Header<'_>, options: Raw) -> Result<(), Error> {
        let call = self.front.enter(&header, OWNER, "Close").await?;
        let mut options = Options::new(options);
        let force = options.flag("force")?;
        options.finish()?;
        let asked = self.front.ask_to_take(&call, self.id()).await?;
        Ok(self.front.service.close(self.id(), &asked, call.uid(), force).await?)
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
        self.now(Owner::pid).unwrap_or_else(|| self.opened.pid())
    }

    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.now(Owner::state).unwrap_or("running")
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn suspended(&self) -> fdo::Result<Vec<(String, &'static str)>> {
        let read = |owner: &Owner| {
            let fits = facts::suspended_size(owner) <= PROPERTY_MAX;
            fits.then(|| facts::suspended(owner))
        };
        self.now(read).unwrap_or_else(|| Some(Vec::new())).ok_or_else(|| {
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
        self.now(facts::anchors).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn locks(&self) -> Vec<OwnedObjectPath> {
        self.front.service.locks_of(self.id()).into_iter().map(paths::lock).collect()
    }

    #[zbus(signal)]
    pub(super) async fn lock_acquired(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        resource: &str,
        mode: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn lock_released(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        resource: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn lock_lost(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        resource: &str,
        reason: &str,
    ) -> zbus::Result<()>;
}

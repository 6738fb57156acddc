//! `org.vmlockd1.Manager`: opens owners, and looks up owners, locks and holders.

use std::sync::Arc;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{ObjectPath, OwnedObjectPath};

use crate::auth::action::{Action, Details};
use crate::auth::authorizer::Call;
use crate::auth::methods::MANAGER;
use crate::dbus::context::{Context, ControlRequest};
use crate::dbus::error::Error;
use crate::dbus::query::{holders, list, resolution};
use crate::dbus::reply::dictionary::{self, Dictionary, saturating_u32};
use crate::dbus::reply::large::Reply;
use crate::dbus::request::anchor::{authorize_process, find_process};
use crate::dbus::request::authorize::VmDetails;
use crate::dbus::request::lockspace;
use crate::dbus::request::open::OpenOptions;
use crate::dbus::request::options::{Options, RawOptions, receive_descriptor};
use crate::life::{Lifeline, Process};
use crate::lock::model::input_error::InputError;
use crate::lock::model::owner::{check_name, parse_uuid};
use crate::lock::{self, OwnerId};
use crate::paths;
use crate::service::NewAnchor;

/// The Manager object.
#[derive(Debug)]
pub(crate) struct Manager {
    context: Arc<Context>,
}

impl Manager {
    /// Creates the object.
    #[must_use]
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn accept<'c>(&'c self, header: &'c Header<'c>, member: &str) -> Result<Call<'c>, Error> {
        Ok(self.context.auth.accept(header, MANAGER, member).await?)
    }

    /// Finds the owner of this UUID that belongs to the caller's user, or else to root.
    fn find_owner(&self, call: &Call<'_>, uuid: &str) -> Result<OwnerId, Error> {
        if uuid.is_empty() {
            return Err(lock::Error::from(InputError::BadUuid(String::new())).into());
        }
        let uuid = parse_uuid(uuid)?;
        [call.uid(), 0]
            .into_iter()
            .map(|uid| OwnerId::new(uid, uuid))
            .filter(|id| call.viewer().may_see(id.uid))
            .find(|id| self.context.service.owner(*id).is_some())
            .ok_or_else(|| Error::no_such_owner(format!("owner {uuid} does not exist")))
    }
}

// zbus makes a method of every getter, whether or not it reads the object, and passes headers by
// value.
#[allow(clippy::unused_self, clippy::needless_pass_by_value)]
#[zbus::interface(name = "org.vmlockd1.Manager", introspection_docs = false)]
impl Manager {
    #[zbus(out_args("owner", "lifeline"))]
    async fn open_owner(
        &self,
        #[zbus(header)] header: Header<'_>,
        uuid: String,
        name: String,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, zbus::OwnedFd), Error> {
        let call = self.accept(&header, "OpenOwner").await?;
        let mut options = Options::new(options);
        let (manual, open_options) = (options.flag("manual")?, OpenOptions::parse(&mut options)?);
        let process = options.descriptor("process")?;
        options.finish()?;
        let id = OwnerId::new(call.uid(), parse_uuid(&uuid)?);
        check_name(&name)?;
        let vm = VmDetails::new(id, &name);
        call.authorize(Action::OpenOwner, &vm.details()).await?;
        call.count_lifeline()?;
        let (lifeline, client_end) = Lifeline::new()?;
        let mut anchors = vec![NewAnchor::Lifeline(lifeline)];
        if let Some(pidfd) = process {
            let process = Process::from_received(&pidfd)?;
            anchors.push(authorize_process(&self.context, &call, &vm, process, None).await?);
        }
        anchors.extend(manual.then_some(NewAnchor::Manual));
        let owner = open_options.open(&self.context, &call, (id, &name), anchors).await?;
        Ok((owner, client_end.into()))
    }

    #[zbus(out_args("owner"))]
    async fn register_owner(
        &self,
        #[zbus(header)] header: Header<'_>,
        uuid: String,
        name: String,
        pid: u32,
        options: RawOptions,
    ) -> Result<OwnedObjectPath, Error> {
        let call = self.accept(&header, "RegisterOwner").await?;
        let mut options = Options::new(options);
        let (manual, open_options) = (options.flag("manual")?, OpenOptions::parse(&mut options)?);
        options.finish()?;
        let id = OwnerId::new(call.uid(), parse_uuid(&uuid)?);
        check_name(&name)?;
        let vm = VmDetails::new(id, &name);
        let process = find_process(&self.context, &call, pid).await?;
        let own = Some(Action::OpenOwner);
        let anchor = authorize_process(&self.context, &call, &vm, process, own).await?;
        let mut anchors = vec![anchor];
        anchors.extend(manual.then_some(NewAnchor::Manual));
        open_options.open(&self.context, &call, (id, &name), anchors).await
    }

    #[zbus(out_args("owner"))]
    async fn get_owner(
        &self,
        #[zbus(header)] header: Header<'_>,
        uuid: String,
    ) -> Result<OwnedObjectPath, Error> {
        let call = self.accept(&header, "GetOwner").await?;
        let owner = self.find_owner(&call, &uuid)?;
        self.context.service.all_shown().await;
        Ok(paths::owner(owner))
    }

    #[zbus(name = "GetOwnerByPID", out_args("owner"))]
    async fn get_owner_by_pid(
        &self,
        #[zbus(header)] header: Header<'_>,
        pid: u32,
    ) -> Result<OwnedObjectPath, Error> {
        let call = self.accept(&header, "GetOwnerByPID").await?;
        // A process that does not exist is another error than a process to which no owner is bound.
        let pid = find_process(&self.context, &call, pid).await?.pid();
        let found = self.context.service.owner_by_pid(pid, call.uid());
        let Some(owner) = found.filter(|id| call.viewer().may_see(id.uid)) else {
            return Err(Error::no_such_owner(format!("no owner is bound to process {pid}")));
        };
        self.context.service.all_shown().await;
        Ok(paths::owner(owner))
    }

    #[zbus(out_args("owners"))]
    async fn list_owners(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<Vec<Dictionary>, Reply> {
        let call = self.accept(&header, "ListOwners").await?;
        Err(list::list_owners(&self.context, &call, options, &header).await?)
    }

    #[zbus(out_args("locks"))]
    async fn list_locks(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<Vec<Dictionary>, Reply> {
        let call = self.accept(&header, "ListLocks").await?;
        Err(list::list_locks(&self.context, &call, options, &header).await?)
    }

    #[zbus(out_args("waiting"))]
    async fn list_waiting(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<Vec<Dictionary>, Reply> {
        let call = self.accept(&header, "ListWaiting").await?;
        Err(list::list_waiting(&self.context, &call, options, &header).await?)
    }

    #[zbus(out_args("holders"))]
    async fn find_holders(
        &self,
        #[zbus(header)] header: Header<'_>,
        resource: String,
        options: RawOptions,
    ) -> Result<Vec<Dictionary>, Error> {
        let call = self.accept(&header, "FindHolders").await?;
        Options::reject_all(options)?;
        holders::find_by_name(&self.context, &call, &resource).await
    }

    #[zbus(out_args("holders"))]
    async fn find_holders_of_file(
        &self,
        #[zbus(header)] header: Header<'_>,
        file: zbus::OwnedFd,
        options: RawOptions,
    ) -> Result<Vec<Dictionary>, Error> {
        let call = self.accept(&header, "FindHoldersOfFile").await?;
        Options::reject_all(options)?;
        holders::find_by_descriptor(&self.context, &call, receive_descriptor(&file)?).await
    }

    #[zbus(out_args("resolution"))]
    async fn resolve(
        &self,
        #[zbus(header)] header: Header<'_>,
        resource: String,
        options: RawOptions,
    ) -> Result<Dictionary, Error> {
        let call = self.accept(&header, "Resolve").await?;
        Options::reject_all(options)?;
        resolution::resolve_name(&self.context, &call, &resource).await
    }

    #[zbus(out_args("resolution"))]
    async fn resolve_file(
        &self,
        #[zbus(header)] header: Header<'_>,
        file: zbus::OwnedFd,
        options: RawOptions,
    ) -> Result<Dictionary, Error> {
        let call = self.accept(&header, "ResolveFile").await?;
        Options::reject_all(options)?;
        resolution::resolve_descriptor(&self.context, &call, receive_descriptor(&file)?).await
    }

    #[zbus(out_args("lockspace"))]
    async fn create_lockspace(
        &self,
        #[zbus(header)] header: Header<'_>,
        directory: String,
        options: RawOptions,
    ) -> Result<OwnedObjectPath, Error> {
        let call = self.accept(&header, "CreateLockspace").await?;
        Options::reject_all(options)?;
        lockspace::create(&self.context, &call, &directory).await
    }

    async fn remove_lockspace(
        &self,
        #[zbus(header)] header: Header<'_>,
        directory: String,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept(&header, "RemoveLockspace").await?;
        Options::reject_all(options)?;
        lockspace::remove(&self.context, &call, &directory).await
    }

    async fn create_lease(
        &self,
        #[zbus(header)] header: Header<'_>,
        lease: String,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept(&header, "CreateLease").await?;
        Options::reject_all(options)?;
        let name = lockspace::authorize_lease(&call, &lease).await?;
        Ok(self.context.service.lockspaces().create_lease(&call.caller.process, name).await?)
    }

    async fn remove_lease(
        &self,
        #[zbus(header)] header: Header<'_>,
        lease: String,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept(&header, "RemoveLease").await?;
        Options::reject_all(options)?;
        let name = lockspace::authorize_lease(&call, &lease).await?;
        Ok(self.context.service.lockspaces().remove_lease(&call.caller.process, name).await?)
    }

    #[zbus(out_args("metrics"))]
    async fn get_metrics(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<Dictionary, Error> {
        let call = self.accept(&header, "GetMetrics").await?;
        Options::reject_all(options)?;
        if !call.viewer().sees_all() {
            call.authorize(Action::ViewForeign, &Details::new()).await?;
        }
        Ok(dictionary::encode_metrics(&self.context.service.metrics_snapshot()))
    }

    async fn reload(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept(&header, "Reload").await?;
        Options::reject_all(options)?;
        call.authorize(Action::Reload, &Details::new()).await?;
        self.context.control(ControlRequest::Reload).await
    }

    async fn reexecute(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.accept(&header, "Reexecute").await?;
        Options::reject_all(options)?;
        call.authorize(Action::Reload, &Details::new()).await?;
        self.context.control(ControlRequest::Reexecute).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn features(&self) -> &'static [&'static str] {
        // Locks survive the service only if it was started with a descriptor store.
        if self.context.service.is_kept() {
            &["lifeline", "process", "reexec", "wait", "lockspaces", "fd-store"]
        } else {
            &["lifeline", "process", "reexec", "wait", "lockspaces"]
        }
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NOwners")]
    fn n_owners(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        let viewer = self.context.viewer(header.as_ref());
        let owners = self.context.service.owner_ids().into_iter();
        saturating_u32(owners.filter(|owner| viewer.may_see(owner.uid)).count())
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NLocks")]
    fn n_locks(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        let viewer = self.context.viewer(header.as_ref());
        saturating_u32(self.context.service.count_locks(|lock| viewer.may_see(lock.owner.uid)))
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NWaiting")]
    fn n_waiting(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        let viewer = self.context.viewer(header.as_ref());
        saturating_u32(self.context.service.count_waiters(|uid| viewer.may_see(uid)))
    }

    #[zbus(signal)]
    pub(crate) async fn lock_acquired(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        owner: ObjectPath<'_>,
        resource: &str,
        mode: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(crate) async fn lock_released(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        owner: ObjectPath<'_>,
        resource: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(crate) async fn lock_lost(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        owner: ObjectPath<'_>,
        resource: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(crate) async fn lock_contended(
        emitter: &SignalEmitter<'_>,
        resource: &str,
        holders: Vec<OwnedObjectPath>,
        owner: ObjectPath<'_>,
    ) -> zbus::Result<()>;
}

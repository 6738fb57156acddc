//! `org.vmlockd1.Manager`: owners are opened here, and everything is found here.

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{ObjectPath, OwnedObjectPath};

use super::bulk::Reply;
use super::claims::{self, Machine};
use super::error::Error;
use super::facts::{self, Facts};
use super::front::{Front, Wish};
use super::opening::First;
use super::options::{Options, Raw, received};
use super::{binding, holders, lists, lockspaces};
use crate::auth::action::Action;
use crate::auth::action::Details;
use crate::auth::authorizer::Call;
use crate::auth::methods::MANAGER;
use crate::life::{Lifeline, Process};
use crate::lock::owner::{check_name, parse_uuid};
use crate::lock::resolve::Wanted;
use crate::lock::resource::Resource;
use crate::lock::{self, OwnerId};
use crate::paths;
use crate::service::NewAnchor;

use std::sync::Arc;

/// The Manager object.
#[derive(Debug)]
pub(super) struct Manager(pub Arc<Front>);

impl Manager {
    async fn enter<'c>(&'c self, header: &'c Header<'c>, member: &str) -> Result<Call<'c>, Error> {
        self.0.enter(header, MANAGER, member).await
    }

    /// What would be locked for a disk.
    async fn target_facts(&self, call: &Call<'_>, wanted: Wanted) -> Result<Facts, Error> {
        let targets = claims::resolve(&self.0, call, [wanted]).await?;
        let only_record = self.0.service.settings().only_record_disks;
        let facts = targets.first().map(|target| facts::of_target(target, only_record));
        Ok(facts.unwrap_or_default())
    }

    /// The caller's own owner of that UUID, or else root's.
    fn find_owner(&self, call: &Call<'_>, uuid: &str) -> Result<OwnerId, Error> {
        if uuid.is_empty() {
            return Err(lock::Error::BadUuid(String::new()).into());
        }
        let uuid = parse_uuid(uuid)?;
        [call.uid(), 0]
            .into_iter()
            .map(|uid| OwnerId::new(uid, uuid))
            .filter(|id| call.viewer().may_see(id.uid))
            .find(|id| self.0.service.owner(*id).is_some())
            .ok_or_else(|| Error::no_such_owner(format!("owner {uuid} does not exist")))
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

// A getter is a method for zbus, whether or not it has to look at anything; and zbus passes headers by
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
        options: Raw,
    ) -> Result<(OwnedObjectPath, zbus::OwnedFd), Error> {
        let call = self.enter(&header, "OpenOwner").await?;
        let mut options = Options::new(options);
        let (manual, first) = (options.flag("manual")?, First::take(&mut options)?);
        let process = options.file("process")?;
        options.finish()?;
        let id = OwnerId::new(call.uid(), parse_uuid(&uuid)?);
        check_name(&name)?;
        let uuid = id.uuid.to_string();
        let machine = Machine { vm: &name, uuid: &uuid };
        call.authorize(Action::OpenOwner, &machine.details()).await?;
        call.count_lifeline()?;
        let (lifeline, theirs) = Lifeline::new()?;
        let mut anchors = vec![NewAnchor::Lifeline(lifeline)];
        if let Some(pidfd) = process {
            let process = Process::by_received(&pidfd)?;
            anchors.push(binding::anchor(&self.0, &call, machine, process, None).await?);
        }
        anchors.extend(manual.then_some(NewAnchor::Manual));
        let owner = first.open(&self.0, &call, (id, &name), anchors).await?;
        Ok((owner, theirs.into()))
    }

    #[zbus(out_args("owner"))]
    async fn register_owner(
        &self,
        #[zbus(header)] header: Header<'_>,
        uuid: String,
        name: String,
        pid: u32,
        options: Raw,
    ) -> Result<OwnedObjectPath, Error> {
        let call = self.enter(&header, "RegisterOwner").await?;
        let mut options = Options::new(options);
        let (manual, first) = (options.flag("manual")?, First::take(&mut options)?);
        options.finish()?;
        let id = OwnerId::new(call.uid(), parse_uuid(&uuid)?);
        check_name(&name)?;
        let uuid = id.uuid.to_string();
        let machine = Machine { vm: &name, uuid: &uuid };
        let process = binding::by_pid(&self.0, &call, pid).await?;
        let own = Some(Action::OpenOwner);
        let anchor = binding::anchor(&self.0, &call, machine, process, own).await?;
        let mut anchors = vec![anchor];
        anchors.extend(manual.then_some(NewAnchor::Manual));
        first.open(&self.0, &call, (id, &name), anchors).await
    }

    #[zbus(out_args("owner"))]
    async fn get_owner(
        &self,
        #[zbus(header)] header: Header<'_>,
        uuid: String,
    ) -> Result<OwnedObjectPath, Error> {
        let call = self.enter(&header, "GetOwner").await?;
        let owner = self.find_owner(&call, &uuid)?;
        self.0.service.all_shown().await;
        Ok(paths::owner(owner))
    }

    #[zbus(name = "GetOwnerByPID", out_args("owner"))]
    async fn get_owner_by_pid(
        &self,
        #[zbus(header)] header: Header<'_>,
        pid: u32,
    ) -> Result<OwnedObjectPath, Error> {
        let call = self.enter(&header, "GetOwnerByPID").await?;
        // A process that does not exist is another error than one to which no owner is bound.
        let pid = binding::by_pid(&self.0, &call, pid).await?.pid();
        let found = self.0.service.owner_by_pid(pid, call.uid());
        let Some(owner) = found.filter(|id| call.viewer().may_see(id.uid)) else {
            return Err(Error::no_such_owner(format!("no owner is bound to process {pid}")));
        };
        self.0.service.all_shown().await;
        Ok(paths::owner(owner))
    }

    #[zbus(out_args("owners"))]
    async fn list_owners(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Raw,
    ) -> Result<Vec<Facts>, Reply> {
        let call = self.enter(&header, "ListOwners").await?;
        Err(lists::owners(&self.0, &call, options, &header).await)
    }

    #[zbus(out_args("locks"))]
    async fn list_locks(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Raw,
    ) -> Result<Vec<Facts>, Reply> {
        let call = self.enter(&header, "ListLocks").await?;
        Err(lists::locks(&self.0, &call, options, &header).await)
    }

    #[zbus(out_args("waiting"))]
    async fn list_waiting(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Raw,
    ) -> Result<Vec<Facts>, Reply> {
        let call = self.enter(&header, "ListWaiting").await?;
        Err(lists::waiting(&self.0, &call, options, &header).await)
    }

    #[zbus(out_args("holders"))]
    async fn find_holders(
        &self,
        #[zbus(header)] header: Header<'_>,
        resource: String,
        options: Raw,
    ) -> Result<Vec<Facts>, Error> {
        let call = self.enter(&header, "FindHolders").await?;
        Options::none(options)?;
        holders::by_name(&self.0, &call, &resource).await
    }

    #[zbus(out_args("holders"))]
    async fn find_holders_of_file(
        &self,
        #[zbus(header)] header: Header<'_>,
        file: zbus::OwnedFd,
        options: Raw,
    ) -> Result<Vec<Facts>, Error> {
        let call = self.enter(&header, "FindHoldersOfFile").await?;
        Options::none(options)?;
        holders::by_file(&self.0, &call, received(&file)?).await
    }

    #[zbus(out_args("resolution"))]
    async fn resolve(
        &self,
        #[zbus(header)] header: Header<'_>,
        resource: String,
        options: Raw,
    ) -> Result<Facts, Error> {
        let call = self.enter(&header, "Resolve").await?;
        Options::none(options)?;
        let resource = Resource::parse(&resource)?;
        let details = |name| Details::from([("resource", name)]);
        claims::ask_by_name(&self.0, &call, &resource, details).await?;
        let path = match resource {
            Resource::Lease(lease) => {
                return Ok(facts::of_lease(
                    &self.0.service.resolve_lease(&call.caller.process, lease).await?,
                ));
            }
            Resource::Disk(path) => path,
        };
        self.target_facts(&call, Wanted::Path(path)).await
    }

    #[zbus(out_args("resolution"))]
    async fn resolve_file(
        &self,
        #[zbus(header)] header: Header<'_>,
        file: zbus::OwnedFd,
        options: Raw,
    ) -> Result<Facts, Error> {
        let call = self.enter(&header, "ResolveFile").await?;
        Options::none(options)?;
        self.target_facts(&call, claims::passed(&self.0, &call, received(&file)?)).await
    }

    #[zbus(out_args("lockspace"))]
    async fn create_lockspace(
        &self,
        #[zbus(header)] header: Header<'_>,
        directory: String,
        options: Raw,
    ) -> Result<OwnedObjectPath, Error> {
        let call = self.enter(&header, "CreateLockspace").await?;
        Options::none(options)?;
        lockspaces::create(&self.0, &call, &directory).await
    }

    async fn remove_lockspace(
        &self,
        #[zbus(header)] header: Header<'_>,
        directory: String,
        options: Raw,
    ) -> Result<(), Error> {
        let call = self.enter(&header, "RemoveLockspace").await?;
        Options::none(options)?;
        lockspaces::remove(&self.0, &call, &directory).await
    }

    async fn create_lease(
        &self,
        #[zbus(header)] header: Header<'_>,
        lease: String,
        options: Raw,
    ) -> Result<(), Error> {
        let call = self.enter(&header, "CreateLease").await?;
        Options::none(options)?;
        let name = lockspaces::lease(&call, &lease).await?;
        Ok(self.0.service.create_lease(&call.caller.process, name).await?)
    }

    async fn remove_lease(
        &self,
        #[zbus(header)] header: Header<'_>,
        lease: String,
        options: Raw,
    ) -> Result<(), Error> {
        let call = self.enter(&header, "RemoveLease").await?;
        Options::none(options)?;
        let name = lockspaces::lease(&call, &lease).await?;
        Ok(self.0.service.remove_lease(&call.caller.process, name).await?)
    }

    #[zbus(out_args("metrics"))]
    async fn get_metrics(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Raw,
    ) -> Result<Facts, Error> {
        let call = self.enter(&header, "GetMetrics").await?;
        Options::none(options)?;
        if !call.viewer().sees_all() {
            call.authorize(Action::ViewForeign, &Details::new()).await?;
        }
        Ok(facts::of_metrics(&self.0.service.metrics()))
    }

    async fn reload(&self, #[zbus(header)] header: Header<'_>, options: Raw) -> Result<(), Error> {
        let call = self.enter(&header, "Reload").await?;
        Options::none(options)?;
        call.authorize(Action::Reload, &Details::new()).await?;
        self.0.wish(Wish::Reload).await
    }

    async fn reexecute(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: Raw,
    ) -> Result<(), Error> {
        let call = self.enter(&header, "Reexecute").await?;
        Options::none(options)?;
        call.authorize(Action::Reload, &Details::new()).await?;
        self.0.wish(Wish::Reexecute).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn features(&self) -> &'static [&'static str] {
        // Whether locks outlive the service differs from one way of starting it to another.
        if self.0.service.is_kept() {
            &["lifeline", "process", "reexec", "wait", "lockspaces", "fd-store"]
        } else {
            &["lifeline", "process", "reexec", "wait", "lockspaces"]
        }
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NOwners")]
    fn n_owners(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        let viewer = self.0.viewer(header.as_ref());
        let owners = self.0.service.owner_ids().into_iter();
        number(owners.filter(|owner| viewer.may_see(owner.uid)).count())
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NLocks")]
    fn n_locks(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        let viewer = self.0.viewer(header.as_ref());
        number(self.0.service.count_locks(|lock| viewer.may_see(lock.owner.uid)))
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NWaiting")]
    fn n_waiting(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        let viewer = self.0.viewer(header.as_ref());
        number(self.0.service.count_waiters(|uid| viewer.may_see(uid)))
    }

    #[zbus(signal)]
    pub(super) async fn lock_acquired(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        owner: ObjectPath<'_>,
        resource: &str,
        mode: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn lock_released(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        owner: ObjectPath<'_>,
        resource: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn lock_lost(
        emitter: &SignalEmitter<'_>,
        lock: ObjectPath<'_>,
        owner: ObjectPath<'_>,
        resource: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn lock_contended(
        emitter: &SignalEmitter<'_>,
        resource: &str,
        holders: Vec<OwnedObjectPath>,
        owner: ObjectPath<'_>,
    ) -> zbus::Result<()>;
}

//! `org.vmlockd1.Lock`: a lock that an owner holds on a disk or a lease.

use std::sync::Arc;

use zbus::OwnedObjectPath;
use zbus::message::Header;

use crate::auth::methods::LOCK;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::dbus::reply::dictionary;
use crate::dbus::request::authorize::authorize_release;
use crate::dbus::request::convert::{ConvertOptions, convert};
use crate::dbus::request::options::{Options, RawOptions};
use crate::lock::{self, Lock, Mode, Owner, Proof};
use crate::paths;

/// The object of a lock.
#[derive(Debug)]
pub(crate) struct LockObject {
    context: Arc<Context>,
    /// The lock when it was granted, for properties that never change.
    granted: Lock,
}

impl LockObject {
    /// Creates the object of a lock.
    #[must_use]
    pub(crate) fn new(context: Arc<Context>, granted: Lock) -> Self {
        Self { context, granted }
    }

    /// Returns the current state of the lock, and its owner.
    fn current(&self) -> Result<(Lock, Owner), Error> {
        let lock = self.context.service.lock(self.granted.id);
        let lock = lock.ok_or(lock::Error::NoSuchLock(self.granted.id))?;
        let owner = self.context.owner(lock.owner)?;
        Ok((lock, owner))
    }
}

// zbus makes a method of every getter, whether or not it reads the object, and passes headers by
// value.
#[allow(clippy::unused_self, clippy::needless_pass_by_value)]
#[zbus::interface(name = "org.vmlockd1.Lock", introspection_docs = false)]
impl LockObject {
    async fn release(
        &self,
        #[zbus(header)] header: Header<'_>,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.context.auth.accept(&header, LOCK, "Release").await?;
        let mut options = Options::new(options);
        let force = options.flag("force")?;
        options.finish()?;
        let (lock, owner) = self.current()?;
        if call.uid() != owner.id.uid {
            authorize_release(&self.context, &call, &owner, [lock.id]).await?;
        }
        Ok(self.context.service.release(owner.id, &[lock.id], call.uid(), force).await?)
    }

    async fn convert(
        &self,
        #[zbus(header)] header: Header<'_>,
        mode: String,
        options: RawOptions,
    ) -> Result<(), Error> {
        let call = self.context.auth.accept(&header, LOCK, "Convert").await?;
        let options = ConvertOptions::parse(options)?;
        let mode: Mode = mode.parse().map_err(Error::from)?;
        let (lock, owner) = self.current()?;
        convert(&self.context, &call, (&lock, &owner), mode, options).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn owner(&self) -> OwnedObjectPath {
        paths::owner(self.granted.owner)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn resource(&self) -> String {
        self.granted.want.resource.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn lock_file(&self) -> String {
        dictionary::lock_file(&self.granted.want)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn identity(&self) -> String {
        self.granted.want.identity.to_string()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn lockspace(&self) -> OwnedObjectPath {
        paths::lockspace(self.granted.want.lockspace)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn generation(&self) -> u64 {
        self.granted.id
    }

    #[zbus(property(emits_changed_signal = "const"), name = "SinceUSec")]
    fn since_usec(&self) -> u64 {
        self.granted.since
    }

    #[zbus(property)]
    fn mode(&self) -> &'static str {
        let lock = self.context.service.lock(self.granted.id);
        lock.map_or(self.granted.want.mode, |lock| lock.want.mode).as_str()
    }

    /// A lock is granted only after it was verified; after a restart it is verified again.
    #[zbus(property)]
    fn verified(&self) -> bool {
        let lock = self.context.service.lock(self.granted.id);
        lock.map_or(self.granted.proof, |lock| lock.proof) == Proof::Verified
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NWaiting")]
    fn n_waiting(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        let viewer = self.context.viewer(header.as_ref());
        let waiting = self.context.service.waiting_for(self.granted.id, |uid| viewer.may_see(uid));
        dictionary::saturating_u32(waiting)
    }
}

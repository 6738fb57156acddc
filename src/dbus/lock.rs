//! `org.vmlockd1.Lock`: one disk in somebody's hands.

use std::sync::Arc;

use zbus::OwnedObjectPath;
use zbus::message::Header;

use super::claims::{self, Machine};
use super::error::Error;
use super::facts;
use super::front::Front;
use super::options::{Options, Raw};
use super::waiting;
use crate::auth::action::Action;
use crate::auth::authorizer::Call;
use crate::auth::methods::LOCK;
use crate::lock::printable::shown;
use crate::lock::received::Received;
use crate::lock::resolve::Access;
use crate::lock::{self, Lock, Mode, Owner, Proof};
use crate::paths;

/// A lock's object.
#[derive(Debug)]
pub(super) struct LockObject {
    front: Arc<Front>,
    /// As it was when it was given: what never changes is answered from here.
    given: Lock,
}

impl LockObject {
    /// The object of a lock.
    #[must_use]
    pub(super) fn new(front: Arc<Front>, given: Lock) -> Self {
        Self { front, given }
    }

    /// The lock as it is now, and its owner.
    fn now(&self) -> Result<(Lock, Owner), Error> {
        let lock = self.front.service.lock(self.given.id);
        let lock = lock.ok_or(lock::Error::NoSuchLock(self.given.id))?;
        let owner = self.front.owner(lock.owner)?;
        Ok((lock, owner))
    }

    /// The proof that strengthening wants, where none was given when the lock was: a descriptor
    /// opened for writing, or the right to lock by name.
    async fn prove_write(
        &self,
        call: &Call<'_>,
        lock: &Lock,
        owner: &Owner,
        file: Option<Received>,
    ) -> Result<(), Error> {
        let uuid = owner.id.uuid.to_string();
        let name = &lock.want.resource;
        let mut details = Machine { vm: &owner.name, uuid: &uuid }.details();
        details.extend([("resource", name.as_str()), ("mode", Mode::Exclusive.as_str())]);
        let Some(file) = file else {
            if lock.want.write_shown {
                return Ok(());
            }
            return Ok(call.authorize(Action::AcquireByName, &details).await?);
        };
        let shown_file =
            claims::resolve(&self.front, call, [claims::passed(&self.front, call, file)]).await?;
        match shown_file.first() {
            Some(target) if target.identity == lock.want.identity => {
                let action = match target.shown {
                    Some(Access::ReadWrite) => Action::AcquireByDescriptor,
                    Some(Access::Read) | None => Action::AcquireByName,
                };
                Ok(call.authorize(action, &details).await?)
            }
            _ => {
                let name = shown(name);
                Err(Error::other_disk(format!(
                    "option 'file' is a descriptor of another disk than {name}"
                )))
            }
        }
    }
}

// A getter is a method for zbus, whether or not it has to look at anything; and zbus passes headers by
// value.
#[allow(clippy::unused_self, clippy::needless_pass_by_value)]
#[zbus::interface(name = "org.vmlockd1.Lock", introspection_docs = false)]
impl LockObject {
    async fn release(&self, #[zbus(header)] header: Header<'_>, options: Raw) -> Result<(), Error> {
        let call = self.front.enter(&header, LOCK, "Release").await?;
        let mut options = Options::new(options);
        let force = options.flag("force")?;
        options.finish()?;
        let (lock, owner) = self.now()?;
        if call.uid() != owner.id.uid {
            self.front.ask_to_break(&call, &owner, [lock.id]).await?;
        }
        Ok(self.front.service.release(owner.id, &[lock.id], call.uid(), force).await?)
    }

    async fn convert(
        &self,
        #[zbus(header)] header: Header<'_>,
        mode: String,
        options: Raw,
    ) -> Result<(), Error> {
        let call = self.front.enter(&header, LOCK, "Convert").await?;
        let mut options = Options::new(options);
        let (timeout, in_use) = (options.timeout()?, options.in_use()?);
        let file = options.file("file")?;
        options.finish()?;
        let mode: Mode = mode.parse().map_err(Error::from)?;
        let (lock, owner) = self.now()?;
        self.front.command(&call, owner.id).await?;
        if lock.want.mode == Mode::None {
            let resource = shown(&lock.want.resource);
            return Err(lock::Error::OnlyRecorded { resource, lock: lock.id }.into());
        }
        if mode == Mode::Exclusive && lock.want.mode != mode {
            self.prove_write(&call, &lock, &owner, file).await?;
        }
        let wait = timeout.begin(&call);
        let granted = self.front.service.convert(lock.id, mode, in_use, wait).await?;
        waiting::hand_out_strength(&self.front, &call, lock.id, &granted).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn owner(&self) -> OwnedObjectPath {
        paths::owner(self.given.owner)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn resource(&self) -> String {
        self.given.want.resource.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn lock_file(&self) -> String {
        facts::lock_file(&self.given.want)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn identity(&self) -> String {
        self.given.want.identity.to_string()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn lockspace(&self) -> OwnedObjectPath {
        paths::lockspace(self.given.want.lockspace)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn generation(&self) -> u64 {
        self.given.id
    }

    #[zbus(property(emits_changed_signal = "const"), name = "SinceUSec")]
    fn since_usec(&self) -> u64 {
        self.given.since
    }

    #[zbus(property)]
    fn mode(&self) -> &'static str {
        let now = self.front.service.lock(self.given.id);
        now.map_or(self.given.want.mode, |lock| lock.want.mode).as_str()
    }

    /// A lock is given only once it was seen to be there; after a restart it is looked at again.
    #[zbus(property)]
    fn verified(&self) -> bool {
        let now = self.front.service.lock(self.given.id);
        now.map_or(self.given.proof, |lock| lock.proof) == Proof::Verified
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NWaiting")]
    fn n_waiting(&self, #[zbus(header)] header: Option<Header<'_>>) -> u32 {
        let viewer = self.front.viewer(header.as_ref());
        let waiting = self.front.service.waiting_for(self.given.id, |uid| viewer.may_see(uid));
        u32::try_from(waiting).unwrap_or(u32::MAX)
    }
}

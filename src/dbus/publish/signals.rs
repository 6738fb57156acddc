//! The signals that tell of a change: what each says, and to whom it goes.

use std::collections::BTreeSet;
use std::sync::Arc;

use zbus::names::BusName;
use zbus::object_server::SignalEmitter;

use super::Publisher;
use crate::dbus::lock::LockObject;
use crate::dbus::manager::Manager;
use crate::dbus::owner::OwnerObject;
use crate::lock::{Lock, Loss, OwnerId, Reason};
use crate::paths;
use crate::privacy::{Audience, Viewer};

/// What sends a signal, once for each connection that gets it, with what that connection may see.
type Emitters = Vec<(SignalEmitter<'static>, Viewer)>;

impl Publisher {
    pub(super) async fn acquired(&self, lock: &Lock) -> zbus::Result<()> {
        let (path, owner) = (paths::lock(lock.id), paths::owner(lock.owner));
        let (resource, mode) = (lock.want.resource.as_str(), lock.want.mode.as_str());
        let (path, owner) = (path.as_ref(), owner.as_ref());
        for (manager, _) in self.emitters(paths::ROOT, lock.owner)? {
            Manager::lock_acquired(&manager, path.clone(), owner.clone(), resource, mode).await?;
        }
        for (emitter, _) in self.emitters(owner.as_str(), lock.owner)? {
            OwnerObject::lock_acquired(&emitter, path.clone(), resource, mode).await?;
        }
        Ok(())
    }

    pub(super) async fn released(&self, lock: &Lock, reason: Reason) -> zbus::Result<()> {
        let (path, owner) = (paths::lock(lock.id), paths::owner(lock.owner));
        let (resource, reason) = (lock.want.resource.as_str(), reason.as_str());
        let (path, owner) = (path.as_ref(), owner.as_ref());
        for (manager, _) in self.emitters(paths::ROOT, lock.owner)? {
            Manager::lock_released(&manager, path.clone(), owner.clone(), resource, reason).await?;
        }
        for (emitter, _) in self.emitters(owner.as_str(), lock.owner)? {
            OwnerObject::lock_released(&emitter, path.clone(), resource, reason).await?;
        }
        Ok(())
    }

    pub(super) async fn lost(&self, lock: &Lock, loss: Loss) -> zbus::Result<()> {
        let (path, owner) = (paths::lock(lock.id), paths::owner(lock.owner));
        let (resource, reason) = (lock.want.resource.as_str(), loss.as_str());
        let (path, owner) = (path.as_ref(), owner.as_ref());
        for (manager, _) in self.emitters(paths::ROOT, lock.owner)? {
            Manager::lock_lost(&manager, path.clone(), owner.clone(), resource, reason).await?;
        }
        for (emitter, _) in self.emitters(owner.as_str(), lock.owner)? {
            OwnerObject::lock_lost(&emitter, path.clone(), resource, reason).await?;
        }
        Ok(())
    }

    /// Goes to viewers of the owner that is refused, with those of the holders that they may see.
    pub(super) async fn contended(
        &self,
        resource: &str,
        holders: &BTreeSet<OwnerId>,
        owner: OwnerId,
    ) -> zbus::Result<()> {
        let path = paths::owner(owner);
        for (manager, viewer) in self.emitters(paths::ROOT, owner)? {
            let seen = holders.iter().filter(|holder| viewer.may_see(holder.uid));
            let seen = seen.map(|holder| paths::owner(*holder)).collect();
            Manager::lock_contended(&manager, resource, seen, path.as_ref()).await?;
        }
        Ok(())
    }

    pub(super) async fn verified_changed(&self, lock: Lock) -> zbus::Result<()> {
        let emitters = self.emitters(&paths::lock(lock.id), lock.owner)?;
        let object = LockObject::new(Arc::clone(&self.front), lock);
        for (emitter, _) in emitters {
            object.verified_changed(&emitter).await?;
        }
        Ok(())
    }

    pub(super) async fn anchors_changed(&self, id: OwnerId) -> zbus::Result<()> {
        let Some(owner) = self.front.service.owner(id) else {
            return Ok(());
        };
        let object = OwnerObject::new(Arc::clone(&self.front), owner);
        for (emitter, _) in self.emitters(&paths::owner(id), id)? {
            object.anchors_changed(&emitter).await?;
            object.p_i_d_changed(&emitter).await?;
        }
        Ok(())
    }

    pub(super) async fn owner_changed(&self, id: OwnerId) -> zbus::Result<()> {
        let Some(owner) = self.front.service.owner(id) else {
            return Ok(());
        };
        let object = OwnerObject::new(Arc::clone(&self.front), owner);
        for (emitter, _) in self.emitters(&paths::owner(id), id)? {
            object.state_changed(&emitter).await?;
            object.suspended_invalidate(&emitter).await?;
        }
        Ok(())
    }

    /// What sends a signal of an object to each connection that may see an owner, with what that
    /// connection may see.
    pub(super) fn emitters(&self, path: &str, owner: OwnerId) -> zbus::Result<Emitters> {
        self.emitters_to(path, self.privacy().audience(owner))
    }

    pub(super) fn emitters_to(&self, path: &str, audience: Audience) -> zbus::Result<Emitters> {
        let emitter = SignalEmitter::new(&self.connection, path)?.into_owned();
        match audience {
            Audience::Everyone => Ok(vec![(emitter, Viewer::ALL)]),
            Audience::Viewers(viewers) => {
                let addressed = |(name, viewer): (Arc<str>, Viewer)| {
                    let destination = BusName::try_from(name.to_string())?;
                    Ok((emitter.clone().set_destination(destination), viewer))
                };
                viewers.into_iter().map(addressed).collect()
            }
        }
    }
}

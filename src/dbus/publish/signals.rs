//! Signals: the content of each, and the connections that receive it.

use std::collections::BTreeSet;
use std::sync::Arc;

use zbus::names::BusName;
use zbus::object_server::SignalEmitter;

use super::Publisher;
use crate::dbus::interface::lock::LockObject;
use crate::dbus::interface::manager::Manager;
use crate::dbus::interface::owner::OwnerObject;
use crate::lock::{Lock, Loss, OwnerId, Reason};
use crate::paths;
use crate::privacy::{Audience, Viewer};

/// One emitter for each connection that receives a signal, with what that connection may see.
type Emitters = Vec<(SignalEmitter<'static>, Viewer)>;

/// Emits a signal of a lock on the Manager and on the owner: the two functions that zbus generates
/// for it, and the last argument of the signal.
macro_rules! emit_lock_signal {
    ($publisher:expr, $lock:expr, $signal:ident, $argument:expr) => {{
        let (path, owner) = (paths::lock($lock.id), paths::owner($lock.owner));
        let (path, owner) = (path.as_ref(), owner.as_ref());
        let (resource, argument) = ($lock.want.resource.as_str(), $argument);
        for (manager, _) in $publisher.emitters(paths::ROOT, $lock.owner)? {
            Manager::$signal(&manager, path.clone(), owner.clone(), resource, argument).await?;
        }
        for (emitter, _) in $publisher.emitters(owner.as_str(), $lock.owner)? {
            OwnerObject::$signal(&emitter, path.clone(), resource, argument).await?;
        }
        Ok(())
    }};
}

impl Publisher {
    pub(super) async fn emit_lock_acquired(&self, lock: &Lock) -> zbus::Result<()> {
        emit_lock_signal!(self, lock, lock_acquired, lock.want.mode.as_str())
    }

    pub(super) async fn emit_lock_released(&self, lock: &Lock, reason: Reason) -> zbus::Result<()> {
        emit_lock_signal!(self, lock, lock_released, reason.as_str())
    }

    pub(super) async fn emit_lock_lost(&self, lock: &Lock, loss: Loss) -> zbus::Result<()> {
        emit_lock_signal!(self, lock, lock_lost, loss.as_str())
    }

    /// Emits `LockContended` to the viewers of the owner that was refused. Each receives the
    /// holders that it may see.
    pub(super) async fn emit_lock_contended(
        &self,
        resource: &str,
        holders: &BTreeSet<OwnerId>,
        owner: OwnerId,
    ) -> zbus::Result<()> {
        let path = paths::owner(owner);
        for (manager, viewer) in self.emitters(paths::ROOT, owner)? {
            let visible = holders.iter().filter(|holder| viewer.may_see(holder.uid));
            let visible = visible.map(|holder| paths::owner(*holder)).collect();
            Manager::lock_contended(&manager, resource, visible, path.as_ref()).await?;
        }
        Ok(())
    }

    pub(super) async fn emit_mode_changed(&self, lock: Lock) -> zbus::Result<()> {
        let emitters = self.emitters(&paths::lock(lock.id), lock.owner)?;
        let object = LockObject::new(Arc::clone(&self.context), lock);
        for (emitter, _) in emitters {
            object.mode_changed(&emitter).await?;
        }
        Ok(())
    }

    pub(super) async fn emit_verified_changed(&self, lock: Lock) -> zbus::Result<()> {
        let emitters = self.emitters(&paths::lock(lock.id), lock.owner)?;
        let object = LockObject::new(Arc::clone(&self.context), lock);
        for (emitter, _) in emitters {
            object.verified_changed(&emitter).await?;
        }
        Ok(())
    }

    pub(super) async fn emit_anchors_changed(&self, id: OwnerId) -> zbus::Result<()> {
        let Some(owner) = self.owner_object(id) else { return Ok(()) };
        for (emitter, _) in self.emitters(&paths::owner(id), id)? {
            owner.anchors_changed(&emitter).await?;
            owner.p_i_d_changed(&emitter).await?;
        }
        Ok(())
    }

    pub(super) async fn emit_owner_changed(&self, id: OwnerId) -> zbus::Result<()> {
        let Some(owner) = self.owner_object(id) else { return Ok(()) };
        for (emitter, _) in self.emitters(&paths::owner(id), id)? {
            owner.state_changed(&emitter).await?;
            owner.suspended_invalidate(&emitter).await?;
        }
        Ok(())
    }

    /// Emits that the locks of an owner have changed, without the new value, which may be large.
    pub(super) async fn emit_locks_invalidated(&self, id: OwnerId) -> zbus::Result<()> {
        let Some(owner) = self.owner_object(id) else { return Ok(()) };
        for (emitter, _) in self.emitters(&paths::owner(id), id)? {
            owner.locks_invalidate(&emitter).await?;
        }
        Ok(())
    }

    /// Returns an object with the current state of an owner; `None` if the owner has ended.
    fn owner_object(&self, id: OwnerId) -> Option<OwnerObject> {
        let owner = self.context.service.owner(id)?;
        Some(OwnerObject::new(Arc::clone(&self.context), owner))
    }

    /// Returns the emitters of an object for the connections that may see an owner.
    fn emitters(&self, path: &str, owner: OwnerId) -> zbus::Result<Emitters> {
        self.emitters_to(path, self.privacy().audience(owner))
    }

    /// Returns the emitters of an object for an audience.
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

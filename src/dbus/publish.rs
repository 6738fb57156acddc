//! The table, shown to the bus: objects and signals.
//!
//! One task does this, and it alone touches the object server: adding and removing objects holds
//! a lock on the whole tree and reads the new object's properties, so nobody who is in a method or
//! a getter may do it. It reads the events in the order of the decisions. A command is answered
//! once its objects are there (or gone), so whoever gets an answer finds them so; the signals that
//! tell others of it follow.
//!
//! While owners are hidden from other users, each signal is sent once to every connection that may
//! see it, instead of to all ([`Privacy::audience`](crate::privacy::Privacy::audience)).

mod signals;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use zbus::{Connection, OwnedObjectPath};

use super::exported::Exported;
use super::folder::Folder;
use super::front::Front;
use super::lock::LockObject;
use super::lockspace::LockspaceObject;
use super::objects::{self, Interfaces, LOCKSPACE, Objects, Properties};
use super::owner::OwnerObject;
use crate::auth::methods::{LOCK, OWNER};
use crate::lock::lockspace::LockspaceKind;
use crate::lock::{Event, Lock, Owner};
use crate::paths;
use crate::privacy::{Audience, Privacy, Viewer};
use crate::service::{Batch, Subscription};

/// How long what nobody waits for may wait: a machine that libvirt starts takes its disks one by
/// one, and is not to be held up by the bus being told of the first.
const LEISURE: Duration = Duration::from_millis(5);

/// What has come by the time that something is to be shown.
async fn gather(first: Batch, subscription: &mut Subscription) -> Vec<Batch> {
    let mut batches = vec![first];
    let pause = sleep(LEISURE);
    tokio::pin!(pause);
    while batches.last().is_some_and(|batch| !batch.awaited) {
        tokio::select! {
            () = &mut pause => break,
            next = subscription.batches.recv() => match next {
                Some(batch) => batches.push(batch),
                None => break,
            },
        }
    }
    batches
}

/// The locks that came and went in between: they need no objects.
fn brief(batches: &[Batch]) -> BTreeSet<u64> {
    let events = || batches.iter().flat_map(|batch| &batch.events);
    let came: BTreeSet<u64> = events()
        .filter_map(|event| match event {
            Event::LockAcquired(lock) => Some(lock.id),
            _ => None,
        })
        .collect();
    let went = events().filter_map(|event| match event {
        Event::LockReleased(lock, _) => Some(lock.id),
        _ => None,
    });
    went.filter(|lock| came.contains(lock)).collect()
}

/// What shows the table.
#[derive(Debug)]
pub(super) struct Publisher {
    connection: Connection,
    front: Arc<Front>,
}

impl Publisher {
    /// Shows on this connection.
    #[must_use]
    pub(super) fn new(connection: Connection, front: Arc<Front>) -> Self {
        Self { connection, front }
    }

    /// Shows what is there already: before the name is taken, so that nobody who finds the name
    /// finds the house empty. Without a word: nobody listens to who has no name yet, and whoever
    /// sees the name come asks for all.
    ///
    /// # Errors
    ///
    /// Where the connection is at its end.
    pub(super) async fn show_all(&self, owners: Vec<Owner>, locks: Vec<Lock>) -> zbus::Result<()> {
        self.show_lockspaces().await?;
        let objects = self.connection.object_server();
        for folder in [paths::OWNERS, paths::LOCKS] {
            Folder::ensure(&self.connection, &self.front, folder).await?;
        }
        for owner in owners {
            let path = paths::owner(owner.id);
            let object = OwnerObject::new(Arc::clone(&self.front), owner);
            objects.at(path, Exported(object)).await?;
        }
        for lock in locks {
            let path = paths::lock(lock.id);
            let object = LockObject::new(Arc::clone(&self.front), lock);
            objects.at(path, Exported(object)).await?;
        }
        Ok(())
    }

    /// Shows what happens, until nothing more can happen.
    ///
    /// Objects first, then the answer to whoever made it happen, then the signals: those are for
    /// others, and he need not wait for them.
    pub(super) async fn follow(self, mut subscription: Subscription) {
        while let Some(batch) = subscription.batches.recv().await {
            let batches = gather(batch, &mut subscription).await;
            let brief = brief(&batches);
            for batch in batches {
                if let Err(error) = self.place(&batch.events, &brief).await {
                    // The table is right all the same; only its picture is not.
                    tracing::error!(%error, "cannot publish objects on the bus");
                }
                // Whoever waited for it may have left.
                let _ = batch.shown.send(());
                tokio::task::yield_now().await;
                if let Err(error) = self.tell(batch.events).await {
                    tracing::error!(%error, "cannot emit signals on the bus");
                }
            }
        }
    }

    /// Adds and removes objects, but for those of locks that are gone already.
    async fn place(&self, events: &[Event], brief: &BTreeSet<u64>) -> zbus::Result<()> {
        for event in events {
            match event {
                Event::LockAcquired(lock) if brief.contains(&lock.id) => {}
                Event::OwnerOpened(id) => {
                    // One that has gone already is told of next, and needs no object.
                    if let Some(owner) = self.front.service.owner(*id) {
                        self.show_owner(owner).await?;
                    }
                }
                Event::OwnerClosed(id) => {
                    let audience = self.privacy().audience(*id);
                    self.hide::<OwnerObject>(paths::owner(*id), audience).await?;
                    self.privacy().remove_owner(*id);
                }
                Event::LockAcquired(lock) => self.show_lock(lock).await?,
                Event::LockReleased(lock, reason) => {
                    // First the reason, while there still is an object that it is about.
                    self.released(lock, *reason).await?;
                    let audience = self.privacy().audience(lock.owner);
                    self.hide::<LockObject>(paths::lock(lock.id), audience).await?;
                }
                Event::LockspacesChanged => {
                    self.show_lockspaces().await?;
                    // Sent when settings change, too: what callers may see is one of them.
                    tokio::spawn(self.front.gate.clone().recheck_views());
                }
                Event::LockspaceRemoved(kind) => {
                    let audience = self.privacy().audience_of_lockspace(*kind);
                    self.hide::<LockspaceObject>(paths::lockspace(*kind), audience).await?;
                }
                Event::AnchorsChanged(_)
                | Event::OwnerChanged(_)
                | Event::LockConverted(_)
                | Event::LockVerified(_)
                | Event::LockLost(..)
                | Event::LockContended { .. } => {}
            }
        }
        Ok(())
    }

    /// Sends signals.
    async fn tell(&self, events: Vec<Event>) -> zbus::Result<()> {
        let mut changed = BTreeSet::new();
        for event in events {
            match event {
                Event::AnchorsChanged(id) => self.anchors_changed(id).await?,
                Event::OwnerChanged(id) => self.owner_changed(id).await?,
                Event::LockAcquired(lock) => {
                    self.acquired(&lock).await?;
                    changed.insert(lock.owner);
                }
                Event::LockReleased(lock, _) => drop(changed.insert(lock.owner)),
                Event::LockConverted(lock) => {
                    let emitters = self.emitters(&paths::lock(lock.id), lock.owner)?;
                    let object = LockObject::new(Arc::clone(&self.front), *lock);
                    for (emitter, _) in emitters {
                        object.mode_changed(&emitter).await?;
                    }
                }
                Event::LockVerified(lock) => self.verified_changed(*lock).await?,
                Event::LockLost(lock, loss) => {
                    self.lost(&lock, loss).await?;
                    self.verified_changed(*lock).await?;
                }
                Event::LockContended { resource, holders, owner } => {
                    self.contended(&resource, &holders, owner).await?;
                }
                Event::OwnerOpened(_)
                | Event::OwnerClosed(_)
                | Event::LockspacesChanged
                | Event::LockspaceRemoved(_) => {}
            }
        }
        for id in changed {
            if let Some(owner) = self.front.service.owner(id) {
                let object = OwnerObject::new(Arc::clone(&self.front), owner);
                for (emitter, _) in self.emitters(&paths::owner(id), id)? {
                    object.locks_invalidate(&emitter).await?;
                }
            }
        }
        Ok(())
    }

    async fn show_owner(&self, owner: Owner) -> zbus::Result<()> {
        let (path, audience) = (paths::owner(owner.id), self.privacy().audience(owner.id));
        // None at first; but after the bus was away there are.
        let locks = self.front.service.locks_of(owner.id);
        let object = OwnerObject::new(Arc::clone(&self.front), owner.clone());
        let properties = |_| objects::of_owner(&owner, &locks);
        self.add(path, OWNER, object, audience, properties).await.map(drop)
    }

    async fn show_lock(&self, lock: &Lock) -> zbus::Result<()> {
        let object = LockObject::new(Arc::clone(&self.front), lock.clone());
        let audience = self.privacy().audience(lock.owner);
        let properties = |viewer: Viewer| {
            let waiting = self.front.service.waiting_for(lock.id, |uid| viewer.may_see(uid));
            objects::of_lock(lock, waiting)
        };
        self.add(paths::lock(lock.id), LOCK, object, audience, properties).await.map(drop)
    }

    /// Adds an object and says so. `false`: it was there.
    async fn add<I: zbus::object_server::Interface>(
        &self,
        path: OwnedObjectPath,
        interface: &'static str,
        object: I,
        audience: Audience,
        properties: impl Fn(Viewer) -> Properties<'static>,
    ) -> zbus::Result<bool> {
        if self.connection.object_server().at(&path, Exported(object)).await?.is_some() {
            return Ok(false);
        }
        let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
        Folder::ensure(&self.connection, &self.front, folder).await?;
        for (manager, viewer) in self.emitters_to(paths::ROOT, audience)? {
            let interfaces = Interfaces::from([(interface, properties(viewer))]);
            Objects::interfaces_added(&manager, path.as_ref(), interfaces).await?;
        }
        Ok(true)
    }

    async fn hide<I: zbus::object_server::Interface>(
        &self,
        path: OwnedObjectPath,
        audience: Audience,
    ) -> zbus::Result<()> {
        match self.connection.object_server().remove::<I, _>(&path).await {
            Ok(_) => {
                let name = I::name();
                for (manager, _) in self.emitters_to(paths::ROOT, audience)? {
                    let names = [name.as_str()];
                    Objects::interfaces_removed(&manager, path.as_ref(), &names).await?;
                }
                Ok(())
            }
            // What came and went in one breath was never shown.
            Err(zbus::Error::InterfaceNotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A lockspace that was configured once stays shown: locks that were given there refer to it.
    async fn show_lockspaces(&self) -> zbus::Result<()> {
        for kind in objects::lockspaces(&self.front) {
            let object = || LockspaceObject::new(Arc::clone(&self.front), kind);
            let properties = |viewer| objects::of_lockspace(&self.front, kind, viewer);
            let (path, audience) =
                (paths::lockspace(kind), self.privacy().audience_of_lockspace(kind));
            let added =
                self.add(path.clone(), LOCKSPACE, object(), audience.clone(), properties).await?;
            if !added && LockspaceKind::CONFIGURED.contains(&kind) {
                for (emitter, _) in self.emitters_to(&path, audience)? {
                    object().directory_changed(&emitter).await?;
                }
            }
        }
        Ok(())
    }

    fn privacy(&self) -> &Privacy {
        &self.front.gate.privacy
    }
}

//! What all objects of this front share.

use tokio::sync::{mpsc, oneshot};
use zbus::message::Header;

use super::claims::Machine;
use super::error::Error;
use crate::auth::deed::Action;
use crate::auth::gate::{Call, Gate};
use crate::lock::{Owner, OwnerId};
use crate::service::Service;

/// A wish to load the configuration again, and where to say what came of it.
pub type Reload = oneshot::Sender<Result<(), String>>;

/// The D-Bus front.
#[derive(Debug)]
pub struct Front {
    /// What it is the front of.
    pub service: Service,
    /// Who may do what.
    pub gate: Gate,
    /// Whoever loads the configuration.
    pub reload: mpsc::Sender<Reload>,
}

impl Front {
    /// Lets a call in.
    ///
    /// # Errors
    ///
    /// `AccessDenied`, `LimitsExceeded`.
    pub async fn enter<'c>(
        &'c self,
        header: &'c Header<'c>,
        interface: &str,
        member: &str,
    ) -> Result<Call<'c>, Error> {
        Ok(self.gate.enter(header, interface, member).await?)
    }

    /// An owner that is there.
    ///
    /// # Errors
    ///
    /// `NoSuchOwner`.
    pub fn owner(&self, id: OwnerId) -> Result<Owner, Error> {
        let owner = self.service.owner(id);
        owner.ok_or_else(|| crate::lock::Error::NoSuchOwner(id).into())
    }

    /// An owner that this caller may command: his own, or another's with authorization.
    ///
    /// # Errors
    ///
    /// `NoSuchOwner`, `AccessDenied` and the like.
    pub async fn command(&self, call: &Call<'_>, id: OwnerId) -> Result<Owner, Error> {
        let owner = self.owner(id)?;
        if call.uid() != id.uid {
            let uuid = id.uuid.to_string();
            let machine = Machine { vm: &owner.name, uuid: &uuid };
            call.ask(Action::ManageForeign, &machine.details()).await?;
        }
        Ok(owner)
    }

    /// Asks whether the caller may break these locks of somebody else's owner, one by one.
    ///
    /// # Errors
    ///
    /// `AccessDenied` and the like.
    pub async fn ask_to_break(
        &self,
        call: &Call<'_>,
        owner: &Owner,
        locks: impl IntoIterator<Item = u64>,
    ) -> Result<(), Error> {
        let uuid = owner.id.uuid.to_string();
        let holder = format!("{} of uid {}", owner.name, owner.id.uid);
        let machine = Machine { vm: &owner.name, uuid: &uuid };
        let locks = locks.into_iter().filter_map(|lock| self.service.lock(lock));
        // Of a lock that is another owner's nobody needs to be asked: it will not be found.
        for lock in locks.filter(|lock| lock.owner == owner.id) {
            let mut details = machine.details();
            details.extend([
                ("resource", lock.want.resource.as_str()),
                ("mode", lock.want.mode.as_str()),
                ("holder", holder.as_str()),
            ]);
            call.ask(Action::ReleaseForeign, &details).await?;
        }
        Ok(())
    }
}

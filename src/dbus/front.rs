//! What all objects of this front share.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use zbus::DynamicType;
use zbus::message::Header;

use super::bulk::{Bulk, Reply};
use super::claims::Machine;
use super::error::Error;
use crate::auth::action::Action;
use crate::auth::authorizer::{Authorizer, Call};
use crate::auth::caller::Caller;
use crate::lock::{Owner, OwnerId};
use crate::privacy::Viewer;
use crate::service::Service;

/// Where to say what came of a wish.
pub type Answer = oneshot::Sender<Result<(), String>>;

/// What callers may wish of the process itself.
#[derive(Debug)]
pub enum Wish {
    /// That it loads its configuration again.
    Reload(Answer),
    /// That it replaces itself by the program that is installed now. Answered once that one was
    /// found fit, and before it happens.
    Reexecute(Answer),
}

/// The D-Bus front.
#[derive(Debug)]
pub struct Front {
    /// What it is the front of.
    pub service: Service,
    /// Who may do what.
    pub gate: Authorizer,
    /// Whoever grants wishes.
    pub wishes: mpsc::Sender<Wish>,
    /// Builds large replies.
    pub(super) bulk: Bulk,
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
        Ok(self.gate.accept(header, interface, member).await?)
    }

    /// What the sender of a message may see; a message of the service's own may show everything.
    #[must_use]
    pub(super) fn viewer(&self, header: Option<&Header<'_>>) -> Viewer {
        let Some(header) = header else { return Viewer::ALL };
        // The bus names the sender of each message.
        let sender = header.sender().map_or("", |sender| sender.as_str());
        self.gate.privacy.viewer(sender)
    }

    /// Builds a large reply: `collect` copies what is in the table, `write` makes the body of it.
    pub(super) async fn bulk_reply<T, B>(
        &self,
        caller: &Caller,
        header: &Header<'_>,
        collect: impl FnOnce() -> Result<T, Error> + Send + 'static,
        write: impl FnOnce(T) -> Result<B, Error> + Send + 'static,
    ) -> Reply
    where
        T: Send + 'static,
        B: Serialize + DynamicType,
    {
        // What is listed is on the bus by the time that the caller reads of it.
        let settle = || self.service.all_shown();
        self.bulk.reply((&self.gate, caller, header), collect, settle, write).await
    }

    /// Has a wish granted.
    ///
    /// # Errors
    ///
    /// `Failed` with the reason.
    pub async fn wish(&self, wish: impl FnOnce(Answer) -> Wish) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let ending = || Error::failed("vmlockd is shutting down");
        self.wishes.send(wish(answer)).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?.map_err(Error::failed)
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
            call.authorize(Action::ManageForeign, &machine.details()).await?;
        }
        Ok(owner)
    }

    /// Asks whether the caller may take all that an owner holds away from it: his own, or another's
    /// with authorization for each lock. Those that he was asked about are told.
    ///
    /// # Errors
    ///
    /// `NoSuchOwner`, `AccessDenied` and the like.
    pub async fn ask_to_take(&self, call: &Call<'_>, id: OwnerId) -> Result<BTreeSet<u64>, Error> {
        if self.owner(id)?.locks.is_empty() {
            self.command(call, id).await?;
        }
        // Polkit may take minutes, and what is locked meanwhile it was not asked about; what comes
        // even later than the last question makes the service refuse.
        let mut asked = BTreeSet::new();
        loop {
            let owner = self.owner(id)?;
            let new = &owner.locks - &asked;
            if new.is_empty() || call.uid() == id.uid {
                return Ok(asked);
            }
            self.ask_to_break(call, &owner, new.iter().copied()).await?;
            asked.extend(new);
        }
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
            call.authorize(Action::ReleaseForeign, &details).await?;
        }
        Ok(())
    }
}

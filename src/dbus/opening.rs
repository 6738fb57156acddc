//! Opening an owner, with what it shall hold from the first moment.

use zbus::OwnedObjectPath;

use super::claims::{self, Machine};
use super::error::Error;
use super::front::Front;
use super::options::Options;
use super::waiting::{self, Timeout};
use crate::auth::authorizer::Call;
use crate::lock::in_use::InUse;
use crate::lock::on_lost::OnLost;
use crate::lock::{self, OwnerId};
use crate::paths;
use crate::service::{NewAnchor, Opening};

/// The options of those methods that open an owner.
pub(super) struct First {
    resources: Vec<(String, String)>,
    timeout: Timeout,
    in_use: InUse,
    on_lost: OnLost,
    why: String,
}

impl First {
    /// Takes them.
    ///
    /// # Errors
    ///
    /// `InvalidArgs`.
    pub(super) fn take(options: &mut Options) -> Result<Self, Error> {
        let (timeout, in_use, on_lost) =
            (options.timeout()?, options.in_use()?, options.on_lost()?);
        let (resources, why) = (options.resources()?, options.why()?);
        Ok(Self { resources, timeout, in_use, on_lost, why })
    }

    /// Opens an owner of this id and name with what it asks for.
    ///
    /// # Errors
    ///
    /// Those of opening and of acquiring; nothing is opened and nothing locked then.
    pub(super) async fn open(
        self,
        front: &Front,
        call: &Call<'_>,
        (id, name): (OwnerId, &str),
        anchors: Vec<NewAnchor>,
    ) -> Result<OwnedObjectPath, Error> {
        let Self { resources, timeout, in_use, on_lost, why } = self;
        let wanted = claims::parse(front, &resources, 0)?;
        let uuid = id.uuid.to_string();
        let machine = Machine { vm: name, uuid: &uuid };
        let asks = claims::find(front, call, machine, wanted, Vec::new(), in_use).await?;
        let name = name.to_owned();
        let opening = Opening { id, name, why, front: lock::Front::Dbus, on_lost, anchors, asks };
        let privacy = &front.gate.privacy;
        privacy.follow_new(&call.caller.name, id);
        let opened = front.service.open(opening, timeout.begin(call)).await;
        if opened.is_err() && front.service.owner(id).is_none() {
            privacy.unfollow(&call.caller.name, id);
        }
        let granted = opened?;
        waiting::hand_out_owner(front, call, id, &granted).await?;
        Ok(paths::owner(id))
    }
}

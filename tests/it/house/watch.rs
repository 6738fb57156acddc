//! Waiting for a name to come and go on a bus, without a gap between looking and listening.

use futures_util::StreamExt;
use zbus::{
    Connection,
    fdo::{DBusProxy, NameOwnerChangedStream},
    names::{BusName, OwnedUniqueName},
};

use super::within;

/// Follows the owner of one name.
pub(crate) struct NameWatch {
    bus: DBusProxy<'static>,
    name: String,
    changes: NameOwnerChangedStream,
    owner: Option<OwnedUniqueName>,
}

impl NameWatch {
    /// Starts to listen, then looks: whatever happens in between is seen twice, not missed.
    pub(crate) async fn new(connection: &Connection, name: &str) -> NameWatch {
        let bus = DBusProxy::new(connection).await.expect("a bus has org.freedesktop.DBus");
        let changes = bus
            .receive_name_owner_changed_with_args(&[(0, name)])
            .await
            .expect("NameOwnerChanged can be subscribed to");
        let wanted = BusName::try_from(name.to_owned()).expect("a valid name");
        let owner = bus.get_name_owner(wanted).await.ok();
        NameWatch { bus, name: name.to_owned(), changes, owner }
    }

    /// Waits until the process `pid` owns the name.
    pub(crate) async fn owned_by(&mut self, pid: u32) {
        within(&format!("{} owned by process {pid}", self.name), async {
            loop {
                if let Some(owner) = &self.owner {
                    let owner = BusName::from(owner.clone());
                    // An error means that this owner left meanwhile.
                    if self
                        .bus
                        .get_connection_unix_process_id(owner)
                        .await
                        .is_ok_and(|it| it == pid)
                    {
                        return;
                    }
                }
                self.change().await;
            }
        })
        .await;
    }

    /// Waits until anybody owns the name; his unique name comes back.
    pub(crate) async fn owned(&mut self) -> OwnedUniqueName {
        within(&format!("{} owned", self.name), async {
            loop {
                if let Some(owner) = &self.owner {
                    return owner.clone();
                }
                self.change().await;
            }
        })
        .await
    }

    /// Waits until another connection than `first` owns the name.
    pub(crate) async fn owned_by_other_than(&mut self, first: &OwnedUniqueName) {
        within(&format!("{} owned by other than {first}", self.name), async {
            while self.owner.as_ref().is_none_or(|owner| owner == first) {
                self.change().await;
            }
        })
        .await;
    }

    /// Waits until the process `pid` does not own the name: nobody does, or another.
    pub(crate) async fn not_owned_by(&mut self, pid: u32) {
        within(&format!("{} given up by process {pid}", self.name), async {
            while let Some(owner) = self.owner.clone() {
                match self.bus.get_connection_unix_process_id(BusName::from(owner)).await {
                    Ok(other) if other != pid => return,
                    _ => self.change().await,
                }
            }
        })
        .await;
    }

    /// Waits until nobody owns the name.
    pub(crate) async fn free(&mut self) {
        within(&format!("{} free", self.name), async {
            while self.owner.is_some() {
                self.change().await;
            }
        })
        .await;
    }

    async fn change(&mut self) {
        let change = self.changes.next().await.expect("the bus is there");
        let change = change.args().expect("NameOwnerChanged has its documented arguments");
        self.owner = change.new_owner().as_ref().map(|owner| owner.to_owned().into());
    }
}

//! `doctor`: whether polkit is there to authorize users.

use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use crate::cli::connection::Link;
use crate::cli::doctor::finding::{Grade, Remark};
use crate::cli::error::Error;
use crate::client::Bus;

/// polkit's name on the system bus.
const POLKIT: &str = "org.freedesktop.PolicyKit1";

/// Adds the remark on polkit, without starting it. A missing polkit endangers no lock, so it is a note. The service of the session bus needs none.
pub(crate) async fn look(link: &Link, remarks: &mut Vec<Remark>) -> Result<(), Error> {
    if link.bus != Bus::System {
        return Ok(());
    }
    let bus = DBusProxy::new(link.bus().await?).await?;
    let is_running = bus.name_has_owner(BusName::try_from(POLKIT)?).await?;
    let can_start = is_running
        || bus.list_activatable_names().await?.iter().any(|name| name.as_str() == POLKIT);
    remarks.push(if can_start {
        Remark::new(Grade::Ok, "polkit", "polkit authorizes users other than root")
    } else {
        let message = "polkit is not running: only root can use vmlockd";
        let advice = "if other users need locks, install and start polkit";
        Remark::new(Grade::Note, "polkit", message).advise(advice)
    });
    Ok(())
}

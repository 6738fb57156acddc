//! Checks whether polkit can authorize users.

use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use crate::cli::connection::ServiceConnection;
use crate::cli::doctor::report::{Finding, Severity};
use crate::cli::error::Error;
use crate::client::Bus;

/// polkit's name on the system bus.
const POLKIT: &str = "org.freedesktop.PolicyKit1";

/// Adds the finding on polkit, without activating it. A missing polkit does not endanger locks, so
/// it is only a note. The service on the session bus does not use polkit.
pub(crate) async fn check(
    service: &ServiceConnection,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    if service.bus != Bus::System {
        return Ok(());
    }
    let bus = DBusProxy::new(service.bus_connection().await?).await?;
    let is_running = bus.name_has_owner(BusName::try_from(POLKIT)?).await?;
    let can_start = is_running
        || bus.list_activatable_names().await?.iter().any(|name| name.as_str() == POLKIT);
    findings.push(if can_start {
        Finding::new(Severity::Ok, "polkit", "polkit authorizes users other than root")
    } else {
        let message = "polkit is not running: only root can use vmlockd";
        let advice = "if other users need locks, install and start polkit";
        Finding::new(Severity::Note, "polkit", message).with_advice(advice)
    });
    Ok(())
}

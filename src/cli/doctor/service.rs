//! Checks the running service: its version, and whether its locks survive a crash, a restart and a
//! stop.

use crate::cli::connection::ServiceConnection;
use crate::cli::connection::lists::has_fd_store;
use crate::cli::doctor::report::{Finding, Severity};
use crate::cli::error::Error;
use crate::cli::process::unit::Unit;
use crate::client::ManagerProxy;

/// The version of this tool.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Compares the version of the service with that of this tool.
pub(crate) fn compare_versions(version: &str) -> Finding {
    if version == VERSION {
        return Finding::new(
            Severity::Ok,
            "version",
            format!("vmlockctl has the same version, {VERSION}"),
        );
    }
    let message =
        format!("vmlockctl is version {VERSION}, the running service is version {version}");
    let advice =
        "after an upgrade, 'vmlockctl reexec' re-executes the service from the new program";
    Finding::new(Severity::Warning, "version", message).with_advice(advice)
}

/// Checks whether the locks survive the end of the service.
pub(crate) async fn check_fd_store(
    service: &ServiceConnection,
    manager: &ManagerProxy<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let pid = service.pid().await?;
    let unit = Unit::read(service).await?;
    // Whether the service is the main process of the unit. If not, the unit does not matter.
    let unit = unit.map(|unit| (unit.main_pid == u64::from(pid), unit));
    // systemd may have dropped descriptors that it had accepted.
    let survives =
        has_fd_store(manager).await? && !matches!(&unit, Some((true, unit)) if unit.stored == 0);
    if survives {
        let message = "locks survive a crash and a restart of the service";
        findings.push(Finding::new(Severity::Ok, "store", message));
    } else {
        let (why, advice) = match &unit {
            None => (
                "there is no systemd on this bus to keep them".to_owned(),
                "while VMs run, do not stop the service; upgrade it with 'vmlockctl reexec'",
            ),
            Some((false, _)) => (
                format!("it was not started by systemd (pid {pid})"),
                "when no VM runs, stop it and start it with 'systemctl start vmlockd'",
            ),
            Some((true, unit)) if unit.store_max == 0 => (
                "its unit has FileDescriptorStoreMax=0".to_owned(),
                "set that to 128 with 'systemctl edit vmlockd', and restart the service when no VM \
                 runs",
            ),
            Some((true, _)) => (
                "systemd keeps no descriptor of it".to_owned(),
                "see 'journalctl -u vmlockd' for the cause",
            ),
        };
        let message =
            format!("when the service ends, all disks are unlocked until it runs again: {why}");
        findings.push(Finding::new(Severity::Warning, "store", message).with_advice(advice));
    }
    if let Some((true, unit)) = unit
        && survives
    {
        let message = "locks are kept over 'systemctl stop' until the service is started again";
        findings.push(unit.lock_loss_at_stop().map_or_else(
            || Finding::new(Severity::Ok, "stop", message),
            |(why, advice)| Finding::new(Severity::Warning, "stop", why).with_advice(advice),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_a_warning() {
        assert_eq!(compare_versions(VERSION).severity, Severity::Ok);
        let other = compare_versions("0.0.1");
        assert_eq!(other.severity, Severity::Warning);
        assert!(other.format_line().contains("0.0.1"));
    }
}

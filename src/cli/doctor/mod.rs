//! `doctor`: diagnoses the service, its storage and its locks.
//!
//! One file per check; each adds a finding per problem, or one if all is well. [`service`],
//! [`polkit`], [`storage`], [`locks`], [`owners`] and [`virtlockd_locks`] check a running service,
//! [`self_test`] and [`hosts`] a directory.

mod hosts;
mod locks;
mod owners;
mod polkit;
pub(crate) mod report;
mod self_test;
pub(crate) mod service;
mod storage;
mod virtlockd_locks;

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::cli::connection::ServiceConnection;
use crate::cli::doctor::locks::check_locks;
use crate::cli::doctor::owners::check_owners;
use crate::cli::doctor::report::{Finding, Severity};
use crate::cli::doctor::service::{check_fd_store, compare_versions};
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::json;
use crate::cli::terminal::output::{OutputFormat, print};
use crate::client::{Bus, lists};

const AFTER_HELP: &str = "\
Checks that the service runs, has the version of this tool and keeps its locks \
over a restart, and lists locks and owners that need attention. Changes nothing, \
and needs no privileges. A stopped service is not started.

With a directory, this tool itself tests locks on the file system there, with a \
temporary file, and says whether other hosts see them. With a disk, it tests the \
directory of the disk; the disk is not opened.

Exit codes:
   0  no warnings
   1  a disk is in danger, because its lock is lost, its
      owner is not known, locks of two owners cover the
      same data, or locks do not work where it lies
  69  the service does not run or cannot be reached, or the
      bus cannot be reached
  78  no disk is in danger, but there are warnings: locks
      may be lost later";

/// Diagnose the service, its storage and its locks
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Test locks on the file system of this directory or disk instead
    #[arg(value_name = "DIRECTORY|DISK")]
    path: Option<PathBuf>,
}

/// Runs the checks and prints the findings.
pub(crate) async fn perform(
    bus: Bus,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let mut findings = Vec::new();
    if let Some(path) = arguments.path {
        self_test::check(&path, &mut findings)?;
        return print_findings(&findings, format);
    }
    let checked = async {
        let service = ServiceConnection::connect_via_bus(bus).await?.without_activation();
        run_checks(&service, &mut findings).await
    };
    let unavailable = match checked.await {
        Ok(()) => None,
        Err(error) if error.is_unavailable() => {
            let message = error.message(bus).unwrap_or_default();
            findings.push(Finding::new(Severity::Danger, "service", message));
            virtlockd_locks::check(bus, &mut findings);
            Some(error.exit())
        }
        Err(error) => return Err(error),
    };
    let exit = print_findings(&findings, format)?;
    Ok(unavailable.unwrap_or(exit))
}

/// Prints the findings. Returns the exit code for the most severe one.
fn print_findings(findings: &[Finding], format: OutputFormat) -> Result<Exit, Error> {
    print(&match format {
        OutputFormat::Json => {
            json::document(&findings.iter().map(Finding::to_json).collect::<Value>())
        }
        OutputFormat::Text => findings.iter().map(Finding::format_line).collect(),
    })?;
    Ok(findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok).exit())
}

/// Runs the checks of a running service.
pub(crate) async fn run_checks(
    service: &ServiceConnection,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let manager = service.manager().await?;
    let version = manager.version().await?;
    let message = format!("vmlockd {version} runs on the {} bus", service.bus.as_str());
    findings.push(Finding::new(Severity::Ok, "service", message));
    findings.push(compare_versions(&version));
    check_fd_store(service, &manager, findings).await?;
    polkit::check(service, findings).await?;
    storage::check(service, &manager, findings).await?;
    check_locks(&service.locks().await?, findings);
    check_owners(&lists::owners(&manager).await?, findings);
    virtlockd_locks::check(service.bus, findings);
    Ok(())
}

//! `who`: prints the holders of disks, one sentence each.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::holder::describe_holder;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::target::lookup;
use crate::cli::target::other_instance::{self, OtherInstance};
use crate::cli::target::{self, Target};
use crate::cli::terminal::output::{OutputFormat, print, print_info, print_message};
use crate::lock::model::lease_name::spoken;
use crate::lock::text::escape::shown_path;

const AFTER_HELP: &str = "\
For a lock or an owner, the holders of its disks are printed.

Exits with 0 if one of the disks is locked or a VM has it open, with 3 if all are \
free, and with another code if that is not known.

A disk that is free may be locked a moment later. To copy a disk, lock it:
  vmlockctl run --disk web1.qcow2:shared -- \\
      qemu-img convert …";

/// Show the holders of disks
#[derive(Debug, Args)]
#[command(after_help = target::help(AFTER_HELP))]
pub(crate) struct Arguments {
    /// Disk images, block devices or leases; or locks or owners, for their disks
    #[arg(required = true, value_name = "PATH|LOCK|OWNER")]
    targets: Vec<OsString>,
}

/// Prints the holders of each disk.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let mut answers = Vec::new();
    let mut any_locked = false;
    let other = OtherInstance::besides(service.bus);
    let mut paths = Vec::new();
    for target in arguments.targets {
        paths.extend(Target::parse(target)?.disks(service).await?);
    }
    for path in paths {
        let mut holders = lookup::holders(service, &path).await?;
        let completed = other.add_owners(&path, &mut holders).await;
        any_locked |= !holders.is_empty();
        let disk = shown_path(&path);
        match format {
            OutputFormat::Json => {
                answers.push(json!({ "path": disk, "holders": json::objects(&holders) }));
            }
            OutputFormat::Text if holders.is_empty() => {
                print_info(&format!("nobody holds {}", spoken(&disk)));
            }
            OutputFormat::Text => {
                let line = |holder| format!("{}\n", describe_holder(&disk, holder));
                print(&holders.iter().map(line).collect::<String>())?;
            }
        }
        if let Err(error) = completed {
            let why = error.message(other.bus()).unwrap_or_default();
            let bus = other.bus().as_str();
            print_message(&format!("the service on the {bus} bus may also hold {disk}: {why}"));
        }
        if let Some(holder) = holders.iter().find(|holder| other_instance::is_vmlockd(holder)) {
            let user = row::text(holder, "user");
            print_message(&format!(
                "the vmlockd of user {user} holds {disk}; 'vmlockctl who', run as that user, names \
                 the VM"
            ));
        }
    }
    if format == OutputFormat::Json {
        print(&json::document(&Value::Array(answers)))?;
    }
    Ok(if any_locked { Exit::SUCCESS } else { Exit::NOT_LOCKED })
}

//! `lockspace`: lists, creates and removes lockspaces and leases.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use zbus::OwnedObjectPath;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::{Alignment, Table};
use crate::cli::target::disk_name::{self, with_lease_prefix};
use crate::cli::terminal::output::{OutputFormat, print};
use crate::client::{Options, Row};
use crate::lock::text::escape::shown_path;

const AFTER_HELP: &str = "\
A lease is a file in a lockspace, which is a directory. A lock on it stands for a \
right, such as the right of a VM to run on one of several hosts. libvirt's <lease> \
names the same file: its 'path', 'lockspace' and 'key' are \
lease:PATH/LOCKSPACE/KEY here.

  vmlockctl lockspace create /srv/leases
  vmlockctl lockspace create-lease /srv/leases/web1
  vmlockctl run --lease /srv/leases/web1 -- \\
      qemu-system-x86_64 ...

In a key, write a slash as %2F and a percent sign as %25.";

/// List, create and remove lockspaces and leases
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: LockspaceCommand,
}

#[derive(Debug, Subcommand)]
enum LockspaceCommand {
    /// List the lockspaces
    List,
    /// Make a directory a lockspace; create the directory if it does not exist
    Create {
        /// The directory
        directory: PathBuf,
    },
    /// Remove a lockspace that is not in use, and its directory, which must be empty
    Remove {
        /// The directory
        directory: PathBuf,
    },
    /// Create a lease; an existing lease is left unchanged
    CreateLease {
        /// The lease
        #[arg(value_name = "DIRECTORY/KEY")]
        lease: OsString,
    },
    /// Remove a lease that is not locked
    RemoveLease {
        /// The lease
        #[arg(value_name = "DIRECTORY/KEY")]
        lease: OsString,
    },
}

impl Arguments {
    /// Whether the command only reads.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self.command, LockspaceCommand::List)
    }
}

/// Lists, creates or removes lockspaces or leases.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let manager = service.manager().await?;
    let manager = manager.inner();
    match arguments.command {
        LockspaceCommand::List => list(service, format).await?,
        LockspaceCommand::Create { directory } => {
            let arguments =
                (disk_name::utf8_path(without_trailing_slashes(&directory))?, Options::new());
            let made: OwnedObjectPath =
                service.call_method(manager, "CreateLockspace", &arguments).await?;
            if format == OutputFormat::Json {
                print(&json::document(&json!({ "lockspace": made.as_str() })))?;
            }
        }
        LockspaceCommand::Remove { directory } => {
            let directory = disk_name::utf8_path(without_trailing_slashes(&directory))?;
            let arguments = (directory.as_str(), Options::new());
            match service.call_method::<_, ()>(manager, "RemoveLockspace", &arguments).await {
                Err(error) if error.is_no_such_lockspace() => {
                    let directory = shown_path(Path::new(&directory));
                    return Err(Error::Missing(format!("{directory} is not a lockspace")));
                }
                removed => removed?,
            }
        }
        LockspaceCommand::CreateLease { lease } => {
            let arguments =
                (disk_name::utf8_path(Path::new(&with_lease_prefix(lease)))?, Options::new());
            service.call_method::<_, ()>(manager, "CreateLease", &arguments).await?;
        }
        LockspaceCommand::RemoveLease { lease } => {
            let arguments =
                (disk_name::utf8_path(Path::new(&with_lease_prefix(lease)))?, Options::new());
            service.call_method::<_, ()>(manager, "RemoveLease", &arguments).await?;
        }
    }
    Ok(Exit::SUCCESS)
}

/// Removes the slashes at the end of a directory, which shells append.
fn without_trailing_slashes(directory: &Path) -> &Path {
    let bytes = directory.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(bytes.len().min(1), |at| at + 1);
    Path::new(OsStr::from_bytes(&bytes[..end]))
}

async fn list(service: &ServiceConnection, format: OutputFormat) -> Result<(), Error> {
    let lockspaces = service.lockspaces().await?;
    print(&match format {
        OutputFormat::Json => json::document(&json::objects(&lockspaces)),
        OutputFormat::Text => text(&lockspaces),
    })
}

fn text(lockspaces: &[Row]) -> String {
    let mut table = Table::new([
        ("LOCKSPACE", Alignment::Left),
        ("KIND", Alignment::Left),
        ("LOCKS", Alignment::Right),
        ("DIRECTORY", Alignment::Left),
    ]);
    for lockspace in lockspaces {
        let word = |key| row::text(lockspace, key).to_owned();
        let locks = row::number(lockspace, "n-locks").to_string();
        table.push([word("name"), word("kind"), locks, word("directory")]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_the_end_of_a_directory_are_removed() {
        for (directory, without) in
            [("/a/b//", "/a/b"), ("a", "a"), ("/", "/"), ("", ""), ("//", "/")]
        {
            assert_eq!(without_trailing_slashes(Path::new(directory)), Path::new(without));
        }
    }
}
